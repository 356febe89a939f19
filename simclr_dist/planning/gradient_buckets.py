"""Where gradients stand and when they are sent, in place of DistributedDataParallel, which refuses fake tensors."""

from collections import Counter

import torch.distributed as dist
from torch import Tensor, nn

from simclr_dist.distributed.watchdog.progress import begin_collective
from simclr_dist.planning.fake_step import trained_parameters
from simclr_dist.planning.tracker import StepTracker
from simclr_dist.training.gradients import BACKWARD

# DistributedDataParallel's: the first bucket is small so that sending starts early.
_FIRST_BUCKET_BYTES, _BUCKET_BYTES = 1 << 20, 25 << 20


def in_buckets(module: nn.Module, tracker: StepTracker) -> nn.Module:
    """``module``, whose gradients will stand in buckets and be sent: those of one process of several."""
    _Buckets(module, tracker)
    return module


class _Buckets:
    """The gradient buckets of DistributedDataParallel, which refuses fake tensors.

    With gradient_as_bucket_view the buckets are the gradients; they stay between steps. A bucket is sent as soon as
    the last of its gradients is there.
    """

    def __init__(self, module: nn.Module, tracker: StepTracker) -> None:
        bucket: list[nn.Parameter] = []
        limit = _FIRST_BUCKET_BYTES
        # Gradients become ready from the last layer to the first.
        for parameter in reversed(trained_parameters(module)):
            bucket.append(parameter)
            if sum(p.numel() * p.element_size() for p in bucket) >= limit:
                self._add(bucket, tracker)
                bucket, limit = [], _BUCKET_BYTES
        if bucket:
            self._add(bucket, tracker)

    def _add(self, parameters: list[nn.Parameter], tracker: StepTracker) -> None:
        with tracker.category("gradients"):
            flat = parameters[0].new_empty(sum(p.numel() for p in parameters))
        views = [v.view_as(p) for v, p in zip(flat.split([p.numel() for p in parameters]), parameters, strict=True)]
        ready: Counter[int] = Counter()

        def arrived(parameter: nn.Parameter, number: int) -> None:
            # Chunks add to what earlier ones left; only the last chunk's backward sends, as under no_sync().
            if parameter.grad is not views[number]:
                parameter.grad = views[number].copy_(parameter.grad)
                ready[number] += 1
                if len(ready) == len(parameters):
                    begin_collective(BACKWARD)
                    dist.all_reduce(flat)
                    ready.clear()

        for number, parameter in enumerate(parameters):
            parameter.register_post_accumulate_grad_hook(lambda p, number=number: arrived(p, number))


def tagged(module: nn.Module, tracker: StepTracker) -> nn.Module:
    """``module``, whose gradients will count as such: those of a single process."""

    def tag(parameter: Tensor) -> None:
        assert parameter.grad is not None
        tracker.retag(parameter.grad, "gradients")

    for parameter in trained_parameters(module):
        parameter.register_post_accumulate_grad_hook(tag)
    return module
