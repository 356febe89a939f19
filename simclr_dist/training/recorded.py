"""``method.embed`` recorded once, as two CUDA graphs (forward and backward pass), and replayed in every step.

A network is a thousand short kernels each way, and issuing them one by one takes the host longer than a GPU needs for
them (docs/gpu.md). A graph starts them in one call. They are the same kernels on the same numbers, so the weights are
to the bit those of a step that is not recorded. What processes exchange (the loss, DDP's sums of gradients) stays
outside: docs/design/recorded_step.md.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from simclr_dist.config import Config, Machine
from simclr_dist.data.loading.batch import Batch, blank_batch
from simclr_dist.distributed.collectives import process_rank
from simclr_dist.errors import UserError, first_line
from simclr_dist.log import log
from simclr_dist.methods.base import Method, Tensors
from simclr_dist.models.batch_norm import copy_all, norms_of, statistics_collected
from simclr_dist.models.drops import drops_of
from simclr_dist.models.precision import AUTOCAST, half_precision
from simclr_dist.models.statistics_group import StatisticsGroup

_WARM_UP = 3
"""Passes before the recording: Triton's programs are compiled and libraries choose their kernels in them."""


class Recorder(Protocol):
    """What records a function that starts kernels on tensors which stay where they are."""

    def warm_up(self, function: Callable[[], object]) -> None:
        """Call the function for what it does at its first call alone."""

    def record(self, function: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
        """What the function gives, and what computes it anew, into the same tensors."""


class CudaRecorder:
    """By CUDA graphs, which share one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, function: Callable[[], object]) -> None:
        """As :class:`Recorder` says."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            function()
        torch.cuda.current_stream().wait_stream(self._stream)

    def record(self, function: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
        """As :class:`Recorder` says. Nothing is computed yet."""
        graph = torch.cuda.CUDAGraph()
        # Of this thread alone: NCCL's watchdog and a loader's thread ask CUDA for their own events meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            made = function()
        return made, graph.replay


def why_not(config: Config, method: type[Method] | Method, statistics: StatisticsGroup) -> str:
    """Why a step on a GPU is not recorded; '' when it is."""
    machine = config.machine
    if not machine.cuda_graphs:
        return "machine.cuda_graphs=false"
    if machine.debug_numerics:
        return "machine.debug_numerics looks at every layer"
    if machine.compile:
        return "machine.compile"
    if machine.recompute != "none":
        return f"machine.recompute={machine.recompute}"
    if statistics.spans_processes:
        return "batch-norm groups of several processes, which exchange their statistics"
    if isinstance(method, Method) and drops_of(method):
        return "what the encoder drops is drawn anew for every step"
    if not method.recordable:
        return f"{config.recipe.method.name} does not say that it is recordable"
    return ""


class RecordedEmbedding:
    """Takes the place of ``method.embed`` for batches like the one that it was recorded with; others go to the method.

    What a method's ``embed`` takes beside the batch's tensors must stand in its parameters and buffers: a number of
    Python's is recorded as it was. Labels are not there, as not every source has them.
    """

    def __init__(self, method: Method, batch: Batch, machine: Machine, recorder: Recorder, *, chunks: bool) -> None:
        """Record. Weights, running statistics and random states are left as they were.

        Args:
            method: on its device, with the run's weights.
            batch: one like those to come, on the device, as ``method.prepare`` gives it; it is kept and overwritten.
            machine: its precision.
            recorder: that of the device.
            chunks: whether a step has several passes: their statistics are then collected, and gradients added up.
        """
        self._active = True
        self._embed, self._batch, self._chunks = method.embed, replace(batch, labels=None), chunks
        self._inputs = self._batch.device_tensors
        self._half = AUTOCAST.get(machine.precision)
        self._method, self._norms = method, norms_of(method)
        self.parameters = [each for each in method.parameters() if each.requires_grad]
        self._places = [each.data_ptr() for each in self.parameters]
        self._training = [norm.training for norm in self._norms]
        self._made: Tensors = {}
        self.gradients: list[Tensor] = []
        """Of the embeddings that have one: what the backward pass begins with."""
        buffers = [buffer for norm in self._norms for buffer in norm.buffers()]
        before = [buffer.clone() for buffer in buffers]
        device = batch.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for _ in range(_WARM_UP):
                recorder.warm_up(self._both)
            made, self.replay_forward = recorder.record(self._forward)
            self._names = list(self._made)
            self.with_gradient = [each.requires_grad for each in self._made.values()]
            self.found, self.replay_backward = recorder.record(self._backward)
        self._made = {}
        self.embeddings = [each.detach() for each in made[: len(self._names)]]
        self._statistics = made[len(self._names) :]
        copy_all(buffers, before)

    def __call__(self, batch: Batch) -> Tensors:
        """As ``method.embed``. What it gives is overwritten by the next call, unless there are chunks."""
        given = replace(batch, labels=None).device_tensors
        if not self._active or not self._holds_for(given):
            return self._embed(batch)
        for place, tensor in zip(self._inputs, given, strict=True):
            place.copy_(tensor)
        outputs = _Replay.apply(self, *self.parameters)
        if self._chunks:
            self._tell_statistics()
        return dict(zip(self._names, outputs, strict=True))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, every batch goes to the method, whose layers call their hooks."""
        self._active = False
        try:
            yield
        finally:
            self._active = True

    def of_pass(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Tensors that are overwritten by the next replay, as they are handed out: copied when there is one in a step.

        Otherwise a gradient stands in the parameter as it is, and no time is lost on a copy.
        """
        return [each.clone() if self._chunks else each.detach() for each in tensors]

    def _holds_for(self, given: list[Tensor]) -> bool:
        """Whether what was recorded does. A norm that is held or looked at in a whole step is not as then."""
        return (
            [(each.shape, each.dtype) for each in self._inputs] == [(each.shape, each.dtype) for each in given]
            and self._places == [each.data_ptr() for each in self.parameters]
            and self._training == [norm.training for norm in self._norms]
            and (self._chunks or not any(norm.held or norm.seen is not None for norm in self._norms))
        )

    def _forward(self) -> list[Tensor]:
        with torch.enable_grad(), half_precision(self._batch.device, self._half):
            if not self._chunks:
                self._made = self._embed(self._batch)
                return list(self._made.values())
            with statistics_collected(self._method) as seen:
                self._made = self._embed(self._batch)
        self._seen = [norm for norm, _, _ in seen]
        return [*self._made.values(), *(each for _, *both in seen for each in both)]

    def _both(self) -> None:
        self._forward()
        if not self.gradients:
            self.gradients = [torch.zeros_like(each) for each in self._made.values() if each.requires_grad]
        self._backward()

    def _backward(self) -> list[Tensor]:
        outputs = [each for each in self._made.values() if each.requires_grad]
        return list(torch.autograd.grad(outputs, self.parameters, self.gradients))

    def _tell_statistics(self) -> None:
        """To the norms, as if their layers had been called."""
        if any(norm.held for norm in self._norms):
            return
        means, variances = self._statistics[::2], self._statistics[1::2]
        for norm, mean, variance in zip(self._seen, means, variances, strict=True):
            norm.meet(mean.clone(), variance.clone())


def record_embedding(
    method: Method, config: Config, statistics: StatisticsGroup, images: int, *, chunks: bool
) -> RecordedEmbedding | None:
    """Let ``method.embed`` be replayed from now on, for batches of so many ``images``; None, and why, where it is not.

    Raises:
        UserError: this GPU cannot record it. What a recording leaves behind that failed is not known, so it is no
            way out to go on without.
    """
    if reason := why_not(config, method, statistics):
        if process_rank() == 0:
            log.info("the step's kernels are started one by one: %s", reason)
        return None
    device = next(method.parameters()).device
    with torch.no_grad():
        blank = method.prepare(blank_batch(config.recipe, images, device))
    try:
        recorded = RecordedEmbedding(method, blank, config.machine, CudaRecorder(device), chunks=chunks)
    except Exception as error:  # whatever a method's embed does that cannot be recorded
        raise UserError(
            f"machine.cuda_graphs: the step cannot be recorded on this GPU ({type(error).__name__}: "
            f"{first_line(error)}); set machine.cuda_graphs=false, or --debug shows where"
        ) from error
    method.embed = recorded  # type: ignore[method-assign]
    return recorded


class _Replay(torch.autograd.Function):
    """A recording and the parameters -> the embeddings."""

    @staticmethod
    def forward(ctx: Any, recorded: RecordedEmbedding, *_parameters: Tensor) -> tuple[Tensor, ...]:
        recorded.replay_forward()
        ctx.recorded = recorded
        outputs = recorded.of_pass(recorded.embeddings)
        pairs = zip(outputs, recorded.with_gradient, strict=True)
        ctx.mark_non_differentiable(*(each for each, has in pairs if not has))
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        recorded: RecordedEmbedding = ctx.recorded
        given = [each for each, has in zip(gradients, recorded.with_gradient, strict=True) if has]
        for place, gradient in zip(recorded.gradients, given, strict=True):
            place.copy_(gradient)
        recorded.replay_backward()
        return (None, *recorded.of_pass(recorded.found))
