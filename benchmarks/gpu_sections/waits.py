"""How often the host waits for the device in steps 5 to 7 of a run, and where: each wait leaves the device idle."""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch

from gpu_sections.here import Here, Row, config_of
from simclr_dist.config import Config
from simclr_dist.data.loading.batch import Batch
from simclr_dist.distributed.processes import Processes
from simclr_dist.models.kernels import set_kernels
from simclr_dist.run.lock import RunLock
from simclr_dist.stop_signals import StopSignals
from simclr_dist.training.trainer import Trainer

_FIRST, _LAST = 5, 7
_WANTED = "0 (a step's own wait is for an event, which torch does not count)"


def rows(here: Here) -> Iterator[Row]:
    for name in here.size(("lars", "lamb"), ("lars",)):
        try:
            found = _waits(here, name)
        except ModuleNotFoundError as error:
            yield Row(f"a step with {name}", f"does not run: {error}")
            continue
        waits = found.total() / (_LAST - _FIRST + 1)
        where = ", ".join(f"{place} {count}" for place, count in found.most_common(6))
        figure = f"{waits:.2g} waits" + (f"; in three steps: {where}" if where else "")
        yield Row(f"a step with {name}", figure, {"waits_per_step": waits, **found}, _WANTED, here.bound(not waits))


def _waits(here: Here, optimizer: str) -> Counter[str]:
    """Place in the code -> waits."""
    folder = str(here.folder / optimizer)
    config = config_of(
        here.size("resnet18", "resnet10"), here.size(256, 32), here.size(32, 8), stem="small",
        width=here.size(1.0, 0.25), run_dir=folder, device=here.device.type, loader_workers=here.size(2, 0),
        stop_after_steps=_LAST + 2, save_every_steps=1000,
    )  # fmt: skip
    config.recipe.optimizer.name = optimizer
    set_kernels(deterministic=config.machine.deterministic, precision=config.machine.precision)
    with RunLock(folder) as lock:
        trainer = _Watched(config, here, lock)
        trainer.train(StopSignals())
    return trainer.waits()


class _Watched(Trainer):
    def __init__(self, config: Config, here: Here, lock: RunLock) -> None:
        super().__init__(config, Processes(), here.device, lock)
        self._watches_device, self._watching = here.on_gpu, ExitStack()
        self._seen: list[warnings.WarningMessage] = []

    def train_step(self, batch: Batch) -> dict[str, float]:
        """The watch begins with a step and ends with the begin of another, so what is between steps counts too."""
        if self.steps_done + 1 == _FIRST:
            self._seen = self._watching.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter("always")
            self._switch("warn")
        if self.steps_done == _LAST:
            self._switch("default")
            self._watching.close()
        return super().train_step(batch)

    def waits(self) -> Counter[str]:
        # The switch itself warns that it is a prototype.
        waits = [each for each in self._seen if "synchronizing CUDA operation" in str(each.message)]
        return Counter(f"{Path(each.filename).name}:{each.lineno}" for each in waits)

    def _switch(self, mode: str) -> None:
        if self._watches_device:
            torch.cuda.set_sync_debug_mode(mode)
