"""How much of its GPU a run has needed, said once: what `plan` predicts is corrected by it."""

import torch

from simclr_dist.log import log
from simclr_dist.units import show_bytes

STEPS = 20


class PeakMemory:
    """Counts the first steps of this start, of which all that a step holds has been there."""

    def __init__(self, device: torch.device, *, active: bool) -> None:
        """Nothing is counted on a CPU, nor unless ``active`` (process 0: the others hold the same)."""
        self.device, self._left = device, STEPS if active and device.type == "cuda" else 0

    def after_step(self) -> None:
        """Say it after the last of the first steps."""
        self._left -= 1
        if self._left != 0:
            return
        free, total = torch.cuda.mem_get_info(self.device)
        log.info(
            "GPU memory in the first %d steps: %s of tensors at the peak (simclr-dist plan predicts this), %s reserved "
            "for them, %s in use of %s",
            STEPS,
            show_bytes(torch.cuda.max_memory_allocated(self.device)),
            show_bytes(torch.cuda.max_memory_reserved(self.device)),
            show_bytes(total - free),
            show_bytes(total),
        )
