"""The plan of a run: every number is a prediction from traced steps and stated assumptions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from simclr_dist.config import Config, Machine
from simclr_dist.data.loading.order import build_order
from simclr_dist.errors import UserError
from simclr_dist.optim.schedule import build_schedule
from simclr_dist.planning.allowance import bytes_for_tensors
from simclr_dist.planning.checkpoints import checkpoint_bytes
from simclr_dist.planning.communication import Assumptions, Traffic, step_traffic
from simclr_dist.planning.memory import StepMemory, Variant
from simclr_dist.training.preflight import check_machine

# From the least to the most recomputation.
_RECOMPUTE = ("none", "blocks", "all")
_COUNTS = [2**power for power in range(13)]


@dataclass(frozen=True, kw_only=True)
class Row:
    """The run on one number of GPUs."""

    gpus: int
    images: int
    """Images of a GPU in a step."""
    variant: Variant
    """How it fits; when it does not, what would need the least memory."""
    peak_bytes: float
    fits: bool
    traffic: list[Traffic]
    norm_bytes: float
    """That batch norm moves through memory in a step, a part of ``compute_seconds``."""
    compute_seconds: float | None
    """Of a step; None: no rate is known, and so no other time but the links'."""
    loader_seconds: float | None
    """That the loader's cores take to make a step's images; None: they or their rate are not known."""
    hours: float
    """Of the whole run; 0 without a rate."""

    @property
    def communication_seconds(self) -> float:
        """Of a step, none of it hidden behind computation."""
        return sum(kind.seconds for kind in self.traffic)

    @property
    def communication_share(self) -> float:
        return self.communication_seconds / (self.communication_seconds + (self.compute_seconds or 0.0))

    @property
    def step_seconds(self) -> float:
        """The loader works beside the GPU, the links do not."""
        return max((self.compute_seconds or 0.0) + self.communication_seconds, self.loader_seconds or 0.0)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that the report, the picture and the suggestion show."""

    config: Config
    assumed: Assumptions
    gpu_memory_bytes: int
    usable_bytes: float
    images: int
    steps_per_epoch: int
    total_steps: int
    checkpoint_bytes: int
    memory: StepMemory
    configured: Row
    """The GPUs that were asked for, with the config's own machine half."""
    suggested: Row
    """The same with what fits and costs least."""
    rows: list[Row]
    refused: dict[int, str]
    """GPUs -> why the recipe cannot be computed on them."""


def make_plan(
    config: Config,
    gpus: int,
    gpu_memory_bytes: int,
    images: int,
    assumed: Assumptions,
    others: Sequence[int] = _COUNTS,
) -> Plan:
    """The plan of ``config`` on ``gpus`` GPUs with ``gpu_memory_bytes`` each, for a data set of ``images``.

    ``others`` are the numbers of GPUs that it is compared with.

    Raises:
        UserError: the GPUs cannot compute the recipe, or there are fewer images than a global batch.
    """
    _check(config, gpus)
    order = build_order(config.recipe, images)
    steps = build_schedule(config.recipe, order).total_steps
    counts, refused = [], {}
    for count in sorted({*others, gpus}):
        try:
            _check(config, count)
            counts.append(count)
        except UserError as error:
            refused[count] = str(error)
    batch = config.recipe.global_batch_images
    memory = StepMemory(config.recipe, config.machine, images, [batch // count for count in counts], batch // gpus)
    to_do = max(0, steps - config.recipe.initial.steps_done)
    planner = _Planner(config, memory, gpu_memory_bytes, to_do, assumed)
    configured = planner.row(gpus, planner.configured(config.machine, batch // gpus))
    rows = [planner.best(count) for count in counts]
    return Plan(
        config=config,
        assumed=assumed,
        gpu_memory_bytes=gpu_memory_bytes,
        usable_bytes=planner.usable_bytes(batch // gpus),
        images=images,
        steps_per_epoch=order.steps_per_epoch,
        total_steps=steps,
        checkpoint_bytes=checkpoint_bytes(config, images),
        memory=memory,
        configured=configured,
        suggested=next(row for row in rows if row.gpus == gpus),
        rows=rows,
        refused=refused,
    )


def _check(config: Config, gpus: int) -> None:
    # Only what the recipe asks of a number of processes: chunks are the plan's own question, the compiler another
    # machine's.
    check_machine(replace(config, machine=replace(config.machine, images_per_chunk=0, compile=False)), gpus)


class _Planner:
    def __init__(
        self, config: Config, memory: StepMemory, gpu_memory_bytes: int, steps: int, assumed: Assumptions
    ) -> None:
        self.recipe, self.memory, self.steps = config.recipe, memory, steps
        self.gpu_memory_bytes, self.assumed = gpu_memory_bytes, assumed

    def usable_bytes(self, images: int) -> float:
        """For the tensors of a GPU with ``images``."""
        batch = self.recipe.global_batch_images
        group = self.recipe.batch_norm_group_images
        return bytes_for_tensors(self.gpu_memory_bytes, group, batch, batch // images, self.assumed)

    def configured(self, machine: Machine, images: int) -> Variant:
        """What the config's machine half says, for ``images`` a GPU."""
        chunk = machine.images_per_chunk if machine.images_per_chunk < images else 0
        if chunk and chunk not in self._chunks(images):
            group = self.recipe.batch_norm_group_images
            raise UserError(
                f"machine.images_per_chunk: {chunk} does not cut a GPU's {images} images into equal chunks of whole "
                f"batch-norm groups of {group or self.recipe.global_batch_images}; set it to 0 and let the plan choose"
            )
        return Variant(machine.recompute, chunk)

    def best(self, gpus: int) -> Row:
        """The first that fits, from the least to the most recomputation; else the one with the lowest peak."""
        images = self.recipe.global_batch_images // gpus
        usable, tried = self.usable_bytes(images), []
        for recompute in _RECOMPUTE:
            tried.append(Variant(recompute))
            if self.memory.peak_bytes(images, tried[-1]) <= usable:
                return self.row(gpus, tried[-1])
        for recompute in _RECOMPUTE:
            for chunk in self._chunks(images):
                tried.append(Variant(recompute, chunk))
                if self.memory.peak_bytes(images, tried[-1]) <= usable:
                    return self.row(gpus, tried[-1])
        return self.row(gpus, min(tried, key=lambda variant: self.memory.peak_bytes(images, variant)))

    def row(self, gpus: int, variant: Variant) -> Row:
        images = self.recipe.global_batch_images // gpus
        peak = self.memory.peak_bytes(images, variant)
        traffic = []
        if gpus > 1:
            traffic = step_traffic(self.memory.traces_alike(images, variant.recompute), images, self.assumed)
        assumed, compute, loader = self.assumed, None, None
        if assumed.flops_per_second:
            compute = self.memory.flops(images, variant) / assumed.flops_per_second
        if assumed.core_images_per_second and assumed.cores:
            loader = images / (assumed.core_images_per_second * assumed.cores)
        row = Row(
            gpus=gpus,
            images=images,
            variant=variant,
            peak_bytes=peak,
            fits=peak <= self.usable_bytes(images),
            traffic=traffic,
            norm_bytes=self.memory.norm_bytes(images, variant),
            compute_seconds=compute,
            loader_seconds=loader,
            hours=0.0,
        )
        return replace(row, hours=self.steps * row.step_seconds / 3600 if compute else 0.0)

    def _chunks(self, images: int) -> list[int]:
        """Chunks that keep batch-norm groups whole, the largest first; none with batch norm over the global batch."""
        group = self.recipe.batch_norm_group_images
        if not group:
            return []
        return [chunk for chunk in range(images // 2, group - 1, -1) if images % chunk == 0 and chunk % group == 0]
