"""The promises of ``simclr-dist verify`` on this device: in one process, and in two that share it through gloo."""

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gpu_sections.here import Here, Row, config_of, failed
from simclr_dist.distributed.nccl import end_abort
from simclr_dist.distributed.processes import Processes
from simclr_dist.errors import first_line
from simclr_dist.models.kernels import set_kernels
from simclr_dist.verification.certificate import certify
from simclr_dist.verification.check import Check


def rows(here: Here) -> Iterator[Row]:
    """Two processes first: CUDA is not begun in this one yet, and may not be where it forks.

    NCCL takes one process a GPU, so they talk through gloo, which carries tensors of the GPU by way of the host.
    """
    what = "verify, 2 processes on this device, gloo"
    try:
        yield checks_row(what, _of_two(here))
    except Exception as error:  # the others can hold without it
        yield failed(what, error)
    yield checks_row("verify, 1 process", _checks(here, Processes()))
    yield _world_of_one(here)


def _of_two(here: Here) -> list[tuple[Any, ...]]:
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    second = context.Process(target=_certified, args=(here, 1, writer))
    first = context.Process(target=_certified, args=(here, 0, writer))
    first.start()
    second.start()
    writer.close()  # so that the read below ends when both have ended without a word
    found: list[tuple[Any, ...]] | str = reader.recv()
    first.join()
    second.join()
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


def _certified(here: Here, rank: int, results: Any) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if here.on_gpu:
        torch.cuda.set_device(here.device)
    store, patience = f"file://{here.folder}/store", timedelta(seconds=30)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=patience)
    try:
        found: Any = [tuple(check) for check in _checks(here, Processes(rank, 2, rank, 2))]
    except Exception as error:
        found = f"process {rank}: {type(error).__name__}: {first_line(error)}"
        results.send(found)  # the other one may fail in its turn: the first word counts
        raise
    if rank == 0:
        results.send(found)


def _checks(here: Here, processes: Processes) -> list[Check]:
    set_kernels(deterministic=True)
    return certify(config_of("resnet18", 32, 32).recipe, processes, here.device)


def checks_row(what: str, found: Iterable[Sequence[Any]]) -> Row:
    """Of a certificate, whose checks may have come as tuples from another process."""
    checks = [Check(*each) for each in found]
    errors = {check.name: check.error for check in checks}
    failing = [f"{check.name} {check.error:.1e} (bound {check.bound:.0e})" for check in checks if not check.holds]
    worst = max((check for check in checks if check.bound), key=lambda check: check.error / check.bound)
    figure = f"{len(checks) - len(failing)} of {len(checks)} hold; nearest to its bound: {worst.name} {worst.error:.1e}"
    return Row(what, "; ".join([figure, *failing]), errors, "all", not failing)


def _world_of_one(here: Here) -> Row:
    """NCCL begins, its collectives give back what they were given, and aborted it begins anew; on the CPU gloo."""
    backend = "nccl" if here.on_gpu else "gloo"
    options: dict[str, Any] = {"device_id": here.device} if here.on_gpu else {}
    store = f"file://{Path(here.folder) / 'alone'}"
    dist.init_process_group(backend, init_method=store, rank=0, world_size=1, **options)
    given = torch.arange(8, dtype=torch.float32, device=here.device)
    gathered, reduced, first = torch.empty_like(given), given.clone(), given.clone()
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name before torch 2.13
    gather(gathered, given)
    dist.all_reduce(reduced)
    alone = dist.new_group([0])
    assert not isinstance(alone, int)  # torch's answer to a process that is not in it
    dist.broadcast(first, src=0, group=alone)
    objects: list[Any] = [None]
    dist.all_gather_object(objects, "here")
    same = all(torch.equal(given, each) for each in (gathered, reduced, first)) and objects == ["here"]
    # As where a run goes on without a lost process (distributed/processes.py).
    is_aborted = end_abort(30.0)
    dist.destroy_process_group()
    dist.init_process_group(backend, init_method=f"{store} again", rank=0, world_size=1, **options)
    again = given.clone()
    dist.all_reduce(again)
    begins_again = is_aborted and torch.equal(given, again)
    dist.destroy_process_group()
    figure = "gather, reduction, broadcast in a new group and objects come back as they were"
    said = f"{figure if same else 'they do not come back'}; {'' if begins_again else 'NOT '}aborted and begun anew"
    return Row(f"{backend}, a world of one", said, {}, "", same and begins_again)
