"""Functions run in 1, 2 or 4 gloo processes, and whole runs of the trainer in them."""

import io
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from simclr_dist.config import Config, load_config
from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.distributed.processes import Processes
from simclr_dist.run import checkpoint
from simclr_dist.run.lock import RunLock
from simclr_dist.run.metrics_log import read_metrics
from simclr_dist.run.newest import load_newest
from simclr_dist.stop_signals import StopSignals
from simclr_dist.training.outcome import Outcome
from simclr_dist.training.trainer import Trainer

# Processes are forked from a server that has torch loaded but no threads: starting four takes a moment, not seconds.
_CONTEXT = multiprocessing.get_context("forkserver")
# TensorBoard, pytest and logistic regression are there too: loaded in every process, they cost it a second.
_CONTEXT.set_forkserver_preload(
    ["torch", "torchvision", "sklearn.datasets", "sklearn.linear_model", "torch.utils.tensorboard", "pytest",
     "simclr_dist.training.trainer", "tests.support.preloaded"]
)  # fmt: skip

# A recipe that a CPU runs in seconds; tests override what they are about.
_ANY_METHOD = (
    "recipe.data.source=digits",
    "recipe.data.image_size=8",
    "recipe.global_batch_images=32",
    "recipe.epochs=2",
    "recipe.warmup_epochs=1",  # without it so small a network amplifies rounding errors tenfold in a step
    "recipe.encoder.name=resnet10",
    "recipe.encoder.width=0.25",
    "recipe.encoder.stem=small",
    "recipe.optimizer.base_learning_rate=0.2",
    "recipe.optimizer.learning_rate_scaling=none",
    "machine.loader_workers=0",
    "machine.threads_per_process=1",
)
TINY = (*_ANY_METHOD, "recipe.method.projection.output_dim=16", "recipe.method.temperature=0.5")


def tiny_config(folder: Path, *overrides: str) -> Config:
    """The tiny recipe with overrides; its run folder is ``folder`` / run unless overridden.

    A method that is named has its own keys, with their defaults.
    """
    file = folder / "tiny.yaml"
    file.write_text("recipe: {}\n")
    named = any(override.startswith("recipe.method.name=") for override in overrides)
    tiny = _ANY_METHOD if named else TINY
    return load_config(str(file), [*tiny, f"machine.run_dir={folder / 'run'}", *overrides])


class Running:
    """``function(*arguments)`` in ``count`` processes of one gloo group.

    ``function`` must be importable: defined at the top of a module.
    """

    def __init__(self, count: int, function: Callable[..., Any], *arguments: Any) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._readers = []
        self.processes = []
        for rank in range(count):
            reader, writer = _CONTEXT.Pipe(duplex=False)
            process = _CONTEXT.Process(
                target=_process, args=(rank, count, self._folder.name, writer, function, arguments)
            )
            process.start()
            writer.close()
            self._readers.append(reader)
            self.processes.append(process)

    def results(self) -> list[Any]:
        """What each process returned, by rank.

        Raises:
            AssertionError: one of them failed or died.
        """
        results = []
        for reader in self._readers:
            try:
                results.append(torch.load(io.BytesIO(reader.recv_bytes()), weights_only=False))
            except EOFError:
                results.append(AssertionError("the process died"))
        self.kill(after=60)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            raise failures[0]
        return results

    def kill(self, after: float = 0) -> None:
        """SIGKILL to all that are still there ``after`` seconds from now."""
        for process in self.processes:
            process.join(timeout=after)
            process.kill()
            process.join()
        self._folder.cleanup()


def run_distributed(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``function(*arguments)`` returned in each of ``count`` processes of one gloo group."""
    return Running(count, function, *arguments).results()


def pretrain_here(config: Config) -> Outcome:
    """The trainer, as the command runs it, in a process of :class:`Running`."""
    rank, count = process_rank(), process_count()
    with RunLock(config.machine.run_dir) as lock:
        return Trainer(config, Processes(rank, count, rank, count), torch.device("cpu"), lock).train(StopSignals())


def wait_for_step(run_dir: Path, step: int, running: Running) -> None:
    path = run_dir / "metrics.jsonl"
    while not path.exists() or path.read_text().count("\n") < step:
        assert all(process.is_alive() for process in running.processes), "it ended before it could be killed"
        time.sleep(0.002)


def losses(run_dir: str | Path) -> list[float]:
    """The loss of every step, after checking that the steps are 1, 2, 3, ... without gaps or repeats."""
    lines = read_metrics(Path(run_dir) / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def final_state(run_dir: str | Path) -> dict[str, Any]:
    """The newest checkpoint of a run."""
    found = load_newest(Path(run_dir) / "checkpoints")
    path, complaints = found.path, found.complaints
    assert path is not None, complaints
    return checkpoint.load(path)


def assert_bit_equal(one: Any, other: Any, where: str = "state") -> None:
    """All tensors and values of two nested states are the same to the bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_bit_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), f"{where}: differs by up to {(one.double() - other.double()).abs().max()}"
    else:
        assert one == other, where


def _process(
    rank: int, count: int, folder: str, results: Any, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    result: Any
    try:
        if count > 1:
            dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=count)
        result = function(*arguments)
    except BaseException as error:
        traceback.print_exc()
        result = AssertionError(f"process {rank}: {type(error).__name__}: {error}")
    buffer = io.BytesIO()
    torch.save(result, buffer)
    results.send_bytes(buffer.getvalue())
    if dist.is_initialized():
        dist.destroy_process_group()


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    """|value - reference| / |reference|, over all elements: a wrong scale shows as well as a wrong direction."""
    value, reference = value.double(), reference.double()
    return float((value - reference).norm() / reference.norm())
