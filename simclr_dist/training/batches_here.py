"""This process's share of the batches of a run, on its device."""

from collections.abc import Callable, Generator, Sequence

import torch

from simclr_dist.config import Config
from simclr_dist.data.loading.batch import Batch
from simclr_dist.data.loading.batches import build_batches
from simclr_dist.data.loading.ffcv_steps import load_views
from simclr_dist.data.loading.one_ahead import on_device
from simclr_dist.data.loading.order import SampleOrder
from simclr_dist.data.sources.base import ImageSource
from simclr_dist.distributed.cores import worker_count
from simclr_dist.distributed.processes import Processes

_BEFORE_OTHERS_GIVE_UP = 0.9


def batches_here(
    config: Config,
    source: ImageSource,
    order: SampleOrder,
    processes: Processes,
    device: torch.device,
    steps: Sequence[int],
    *,
    cores: int,
    is_stopped: Callable[[], object],
) -> Generator[Batch, None, None]:
    """Batches of these steps in order, made ahead by machine.loader_workers (-1: one for each of ``cores``).

    Raises:
        UserError: as :func:`load_views`; a batch is given up before the other processes give up this one, so that all
            save together.
    """
    machine = config.machine
    patience = float(machine.batch_timeout_seconds)
    if processes.count > 1:
        patience = min(patience, _BEFORE_OTHERS_GIVE_UP * machine.collective_timeout_seconds)
    loaded = load_views(
        build_batches(config, source, order, processes.rank, processes.count),
        steps,
        workers=worker_count(machine.loader_workers, cores),
        pin_memory=device.type == "cuda",
        is_stopped=is_stopped,
        timeout_seconds=patience,
    )
    return on_device(loaded, device)
