"""A step's numbers on their way from the device to the host."""

import torch
from torch import Tensor

from simclr_dist.distributed.nccl import refuse_aborted


class NumbersOnTheWay:
    """Scalars that travel together, in one transfer, while the host gives the device more to do."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        """Scalars on one device."""
        self._names = tuple(values)
        stacked = torch.stack([value.detach().to(torch.float64) for value in values.values()])
        self._on_host = stacked.to("cpu", non_blocking=True)  # from a GPU into page-locked memory
        self._arrived = torch.cuda.current_stream(stacked.device).record_event() if stacked.is_cuda else None

    def arrive(self) -> dict[str, float]:
        """The numbers. Waits until the device has computed and sent them, and not for what it was given since.

        Raises:
            RuntimeError: the group was aborted meanwhile, and they may be any.
        """
        if self._arrived:
            self._arrived.synchronize()
        refuse_aborted()
        return dict(zip(self._names, self._on_host.tolist(), strict=True))
