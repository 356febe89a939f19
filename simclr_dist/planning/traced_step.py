"""One step of a run, traced on fake tensors: the run's own code, no data, no GPU, no memory.

torch's fake process group answers every collective at once; so one process sees what each of thousands would
allocate, compute and send.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)

from simclr_dist.config import Config, Machine, Recipe
from simclr_dist.errors import UserError, first_line
from simclr_dist.guards.undo import Undo
from simclr_dist.planning.fake_step import FakeBatch, FakeStep
from simclr_dist.planning.fakes import fake_mode, fake_processes, kernels_of, no_scaler
from simclr_dist.planning.gradient_buckets import in_buckets, tagged
from simclr_dist.planning.method_watch import MethodWatch
from simclr_dist.planning.norm_traffic import NormTraffic
from simclr_dist.planning.tracker import WORK, Sent, StepTracker
from simclr_dist.training.gradients import Computed
from simclr_dist.training.recorded import why_not

_RESTING = ("weights", "state", "optimizer state", "gradients")
_UNTRACEABLE = (
    DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StepTrace:
    """What one step of one process takes. Bytes are those of tensors; see ``plan`` for what a device adds to them."""

    local_images: int
    processes: int
    peak_bytes: int
    """Highest sum of living tensors during the step."""
    at_peak: dict[str, int]
    """The same by category: weights (parameters, and batch norm's buffers with the copies that a skipped step puts
    back), state (a method's other buffers), optimizer state, gradients, images, activations, backward (gradients of
    activations, recomputed ones), loss, update (what the optimizer and the method need for a moment, and on a GPU a
    copy of weights and optimizer state until the step is judged)."""
    pass_bytes: int
    """Peak of the forward and backward passes."""
    update_bytes: int
    """Peak of the optimizer's update and of what the method does after it, beside what a recorded step keeps."""
    resting_bytes: int
    """Between steps: weights, state, optimizer state, and the gradient buckets when there is more than one process."""
    kept_bytes: int
    """Of a step whose passes are recorded (machine.cuda_graphs), what is never let go; else 0."""
    loss_bytes: int
    """Peak of what the loss alone makes, at whatever moment."""
    held_bytes: float
    """Of an image, while other chunks pass through the encoder: its views, targets, embeddings and their gradients."""
    flops: int
    """Floating-point operations of matrix products and convolutions."""
    embed_flops: int
    """Those of the embeddings, without the way back."""
    norm_bytes: int
    """Bytes that batch norm reads and writes, by torch's kernels."""
    collectives: dict[Sent, int]
    """Kind -> calls."""
    payload: dict[Sent, int]
    """Kind -> bytes that the process puts in."""


def traced_step(recipe: Recipe, machine: Machine, local_images: int, processes: int, images: int) -> StepTrace:
    """Trace a step of one of ``processes`` that hold ``local_images`` each; the loss sees all of them.

    Args:
        recipe: what is computed; its global batch is local_images * processes here.
        machine: precision, images_per_chunk, recompute, channels_last; ``device: cuda`` gives the loss a GPU's tiles
            and updates as there.
        local_images: images of a process in a step.
        processes: how many there are, none of which is started.
        images: of the data set.

    Raises:
        ValueError: the batch-norm groups cannot be mapped onto the processes or chunks.
        UserError: the method does what cannot be followed without the values of its tensors.
    """
    if machine.images_per_chunk >= local_images:
        machine = replace(machine, images_per_chunk=0)
    config = Config(recipe=replace(recipe, global_batch_images=local_images * processes), machine=machine)
    try:
        with (
            fake_processes(processes),
            kernels_of(machine.device),
            fake_mode(),
            StepTracker(local_images) as tracker,
        ):
            return _traced(config, tracker, local_images, processes, images)
    except _UNTRACEABLE as error:
        raise UserError(
            f"recipe.method.name: {recipe.method.name} cannot be planned: its step needs the values of tensors, which "
            f"a plan does not have ({type(error).__name__}: {first_line(error)}); --debug shows where"
        ) from error


def _traced(config: Config, tracker: StepTracker, local_images: int, processes: int, images: int) -> StepTrace:
    with tracker.category("weights"):
        step = FakeStep(config, processes, images)
    for buffer in step.method_state():
        tracker.retag(buffer, "state")
    with tracker.category("optimizer state"):
        step.make_optimizer_state()
    # The scaler's own tensors are scalars.
    step.scaler = no_scaler()
    step.parallel = (in_buckets if processes > 1 else tagged)(step.method, tracker)
    watch, norms = MethodWatch(step.method, tracker), NormTraffic(step.method)
    with tracker.category("images"):
        batch = FakeBatch.of(config.recipe, local_images)
        # On a GPU the next one is there already.
        held = [batch, FakeBatch.of(config.recipe, local_images)] if config.machine.device == "cuda" else [batch]
    resting = sum(tracker.living[name] for name in _RESTING)
    tracker.restart()
    recorded = config.machine.device == "cuda" and not why_not(config, step.method, step.statistics)
    computed = step.compute_gradients(batch)
    at_peak, kept = tracker.at_peak, Counter[str]()
    if recorded:
        # It has a batch of its own, and keeps what its passes work in through loss and update to the next step.
        chunk = config.machine.images_per_chunk or local_images
        kept = Counter({"images": _bytes(batch.device_tensors) * chunk // local_images, WORK[0]: tracker.work_peak})
        at_peak = tracker.rest_at_peak + kept
    pass_bytes = at_peak.total()
    tracker.restart_peak()
    with tracker.category("update"):
        step.gradient_norm()
        undo = Undo(step.optimizer) if step.updates_ahead else None
        step.update(step.last)
        del undo
        step.after_update(computed, step.last)
        step.optimizer.zero_grad()
    at_update = tracker.at_peak + kept
    update_bytes = at_update.total()
    if update_bytes > pass_bytes:
        at_peak = at_update
    return StepTrace(
        local_images=local_images,
        processes=processes,
        peak_bytes=max(pass_bytes, update_bytes),
        at_peak={name: count for name, count in at_peak.items() if count},
        pass_bytes=pass_bytes,
        update_bytes=update_bytes,
        resting_bytes=resting,
        kept_bytes=kept.total(),
        loss_bytes=tracker.loss_peak,
        held_bytes=_held_bytes(held, computed) / local_images,
        flops=tracker.flops,
        embed_flops=watch.embed_flops,
        norm_bytes=norms.bytes,
        collectives=dict(tracker.collectives),
        payload=dict(tracker.payload),
    )


def _held_bytes(batches: list[FakeBatch], computed: Computed) -> int:
    """Of what belongs to the images of a process from the first chunk to the last."""
    parts = [part for batch in (*batches, computed.batch) for part in (batch.views, batch.masks)]
    views = {id(each): each for part in parts for each in part.values()}
    embeddings = computed.embeddings.values()
    gradients = [each for each in embeddings if each.is_floating_point()]
    return _bytes([*views.values(), *computed.targets.values(), *embeddings, *gradients])


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
