"""Runs that are killed and started again, against the same run left alone: final checkpoints equal to the bit."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gpu_sections.here import Here, Row, config_of
from simclr_dist.config import Config
from simclr_dist.distributed.processes import Processes
from simclr_dist.run import checkpoint
from simclr_dist.run.newest import load_newest
from simclr_dist.training.pretraining import pretrain
from simclr_dist.training.trainer import Trainer

_CONTEXT = multiprocessing.get_context("fork")
# machine halves: what resumes must be what was killed, whatever the kernels.
_MACHINES: dict[str, dict[str, Any]] = {
    "bfloat16, channels_last, views_on_device": {
        "precision": "bfloat16", "channels_last": True, "views_on_device": True
    },
    "float32": {},
    "bfloat16, chunks": {"precision": "bfloat16", "images_per_chunk": 32},
    "float16, chunks, recompute": {"precision": "float16", "images_per_chunk": 32, "recompute": "all"},
}  # fmt: skip


def rows(here: Here) -> Iterator[Row]:
    """All runs at once: nothing here is timed."""
    steps, killed_in = here.size((24, 14), (6, 5))
    runs: list[tuple[Any, ...]] = []
    for name, machine in list(_MACHINES.items())[: here.size(len(_MACHINES), 1)]:
        folder = here.folder / str(len(runs))
        whole, killed = (_config(here, folder / run, steps, machine) for run in ("whole", "killed"))
        runs.append((name, whole, killed, _started(whole), _started(killed, killed_in)))
    for name, whole, killed, undisturbed, disturbed in runs:
        undisturbed.join()
        disturbed.join()
        assert disturbed.exitcode == -signal.SIGKILL, f"the run was to be killed and ended with {disturbed.exitcode}"
        newest = load_newest(Path(killed.machine.run_dir) / "checkpoints").path
        resumed = _started(killed)
        resumed.join()
        assert (undisturbed.exitcode, resumed.exitcode) == (0, 0), "a run failed: see the log"
        apart = list(_differences(_final(whole), _final(killed)))
        figure = f"killed in step {killed_in} of {steps}, resumed from {newest.stem if newest else 'the start'}: "
        figure += "equal to the bit" if not apart else f"{len(apart)} differ, first {apart[0]}"
        yield Row(name, figure, {"differences": len(apart)}, "equal to the bit", not apart)


def _config(here: Here, folder: Path, steps: int, machine: dict[str, Any]) -> Config:
    config = config_of(
        here.size("resnet18", "resnet10"), here.size(128, 32), here.size(32, 8), stem="small", group=16,
        width=here.size(1.0, 0.25), run_dir=str(folder), device=here.device.type, loader_workers=here.size(1, 0),
        stop_after_steps=steps, save_every_steps=here.size(4, 2), threads_per_process=1, **machine,
    )  # fmt: skip
    if not here.on_gpu:  # the device's renderer without its colours is the fast way of tiny images
        config.machine = replace(config.machine, views_on_device=False)
    return config


def _started(config: Config, killed_in: int = 0) -> Any:
    """The run in a process, which kills itself in that step."""
    process = _CONTEXT.Process(target=_run, args=(config, killed_in))
    process.start()
    return process


def _run(config: Config, killed_in: int) -> None:
    plain = Trainer.train_step

    def train_step(self: Trainer, batch: Any) -> dict[str, float]:
        if self.steps_done + 1 == killed_in:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, batch)

    Trainer.train_step = train_step  # type: ignore[method-assign]
    pretrain(config, Processes())


def _final(config: Config) -> dict[str, Any]:
    path = load_newest(Path(config.machine.run_dir) / "checkpoints").path
    assert path is not None
    return checkpoint.load(path)


def _differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Where two nested states are not the same to the bit."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from _differences(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if not torch.equal(one, other):
            yield where
    elif type(one) is not type(other) or one != other:
        yield where
