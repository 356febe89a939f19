"""The seam between the project and a pretraining method: what a method says of itself and does in a step.

A step is: ``prepare`` and ``targets`` once, without a graph; ``embed``, image by image, where every trained parameter
acts; ``loss`` over the global batch; the update; ``after_update``. A method that keeps to it is exact at any number of
processes and chunks, resumes, is planned, verified, reported and exported, by existing (docs/methods.md).
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from simclr_dist.config import Recipe
from simclr_dist.config.about import About, Published
from simclr_dist.config.method import MethodKeys
from simclr_dist.config.metric import Metric
from simclr_dist.config.views import ViewGroup
from simclr_dist.data.loading.batch import Batch
from simclr_dist.models.drops import drawing
from simclr_dist.models.encoder import RGB, Encoder
from simclr_dist.optim.rates import Moment, Rate

__all__ = [
    "About", "Batch", "Method", "MethodKeys", "Metric", "Moment", "Pass", "Published", "Rate", "Tensors", "ViewGroup",
]  # fmt: skip

Tensors = dict[str, Tensor]
"""Names of the method's own -> tensors whose leading dimension is this process's images."""


class Pass(NamedTuple):
    """What a forward pass gives."""

    embeddings: Tensors
    outputs: Tensors
    """``loss`` and the metrics, scalars over the global batch; {} when only embeddings were asked for."""


class Method(nn.Module):
    """A pretraining method: DDP wraps it once, a checkpoint holds its parameters and buffers.

    A subclass sets ``encoder`` and whatever else it needs in ``__init__(self, config, make, images)``: ``config`` are
    its own keys, ``make`` gives parts of the recipe (:class:`simclr_dist.methods.parts.Parts`), ``images`` is the
    number of images in the data set. State beyond the parameters (queues, banks, centres) stands in buffers, equal on
    all processes; parameters that are not trained by gradients (a teacher's) have ``requires_grad=False``.
    """

    Config: ClassVar[type[MethodKeys]] = MethodKeys
    """The keys below recipe.method: a dataclass with a text under each field."""
    METRICS: ClassVar[Mapping[str, Metric]] = {}
    """What ``loss`` returns beside the loss."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """What the images must have: ``labels``, ``masks`` (of their pixels' classes), ``color``; ``geometry``, where
    views lie in their images, every source has. Refused at the start when the source lacks it."""
    recordable: ClassVar[bool] = False
    """Whether ``embed`` may be recorded once and replayed (machine.cuda_graphs): it depends on the batch's tensors on
    the device but the labels, parameters and buffers alone, not on numbers of Python's that change, and never waits
    for the device."""
    HEAD: ClassVar[str] = "projection"
    """The module, if there is one of that name, that makes embeddings (rows, d) of features (rows, C): for exports,
    fine-tuning and evaluation."""
    ABOUT: ClassVar[About | None] = None
    """What ``simclr-dist methods`` tells of it; one of this project has it, yours may."""
    PICTURES: ClassVar[str] = ""
    """What :meth:`pictures` shows, in words; empty: the views."""
    TAKES: ClassVar[str] = RGB
    """What its encoders take of an image (``models.encoder.INPUTS``): also when they are evaluated and exported."""
    encoder: Encoder
    """What evaluation and export take. Its parameters stand under ``encoder.`` in a checkpoint."""

    @classmethod
    def views(cls, config: Any) -> dict[str, ViewGroup]:
        """The groups of views of an image with their defaults, which a recipe overrides by name."""
        return {"global": ViewGroup(count=2)}

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """Refuse a recipe that the method cannot compute; here: another number of views than it has by default.

        Raises:
            ValueError: naming the key and the cure.
        """
        for name, group in cls.views(recipe.method).items():
            if recipe.views[name].count != group.count:
                raise ValueError(
                    f"recipe.views.{name}.count: {recipe.method.name} takes {group.count} views of an image, not "
                    f"{recipe.views[name].count}; leave the key out"
                )

    @classmethod
    def sides(cls, recipe: Recipe) -> list[int]:
        """Sides of the images that its encoders get in training, in pixels, in order; of a recipe that :meth:`check`
        takes. Here: the views'; a method that gives its encoders patches says theirs."""
        return sorted({group.side(recipe.data.image_size) for group in recipe.views.values()})

    @classmethod
    def most_classes(cls, config: Any) -> int | None:
        """How many classes of images it can tell; images of more are refused at the start. None: any number."""
        return None

    @classmethod
    def repels_beyond(cls, config: Any) -> int | None:
        """How many frame numbers apart frames of a sequence must be, more than that, to repel; images of which no two
        are so, or of different sequences, are refused at the start. None: time makes nothing repel."""
        return None

    @classmethod
    def small(cls, config: Any, images: int) -> Any:
        """The keys with sizes (units, queues) for global batches of so few ``images``: ``verify`` takes seconds then.

        Only what is large; what the method computes must stay. Here: the keys as they are.
        """
        return config

    @classmethod
    def pictures(cls, recipe: Recipe, batch: Batch) -> Tensor:
        """What ``preview`` and reports show of a batch of views: the input of a pretext task, then its answer.

        Called where PICTURES is not empty.

        Returns:
            uint8 (images, tiles, 3, side, side).
        """
        raise NotImplementedError

    def prepare(self, batch: Batch) -> Batch:
        """The batch as the other calls shall see it: once a step, on the process's whole share, without a graph.

        Here a method may exchange images between processes (shuffled batch norm). Every process calls it.
        """
        return batch

    def targets(self, batch: Batch) -> Tensors:
        """What the embeddings are held against (a teacher's outputs, answers of a pretext task), without a graph.

        Called once for every image of a step, chunk by chunk, before ``embed``.
        """
        return {}

    def embed(self, batch: Batch) -> Tensors:
        """Embeddings of a chunk's images. EVERY trained parameter acts here, and images meet in batch norm alone."""
        raise NotImplementedError

    def embedded(self, batch: Batch) -> Tensors:
        """What ``embed`` gives, with whatever its encoders drop by chance drawn for this batch."""
        with drawing(self, batch):
            return self.embed(batch)

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """``loss`` (a scalar, to be differentiated) and every one of METRICS (detached scalars), over the global batch.

        Its arguments are the process's whole share, whatever the chunks, in float32 or float64; it must give the same
        numbers on every process (:func:`simclr_dist.distributed.global_batch.global_batch` brings the rows of all
        together). No trained parameter may act here.
        """
        raise NotImplementedError

    def after_update(self, embeddings: Tensors, targets: Tensors, batch: Batch, step: int, steps: int) -> None:
        """Move what is not trained by gradients (a teacher, a queue, a bank), after the optimizer has moved the rest.

        Not called for a step that is skipped, and called without a graph, with what the step has seen.

        Args:
            embeddings: detached, of the process's whole share.
            targets: the same.
            batch: the process's share, as ``prepare`` gave it.
            step: the number of the step just done, counted from 0.
            steps: of the whole run.
        """

    def embedding_rows(self, embeddings: Tensors) -> Tensor | None:
        """The embeddings (images, d) whose RankMe the run tells; None: it tells none.

        Here: ``z``, or where there is none what ``embed`` names first; of several views of an image the first.
        """
        rows = embeddings.get("z", next(iter(embeddings.values()), None))
        if rows is not None and rows.dim() == 3:
            rows = rows[:, 0]
        return rows if rows is not None and rows.dim() == 2 and rows.is_floating_point() else None

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor | None:
        """The loss once more, as the paper writes it: what ``verify`` holds ``loss`` and its gradient against.

        Called in one process that has the global batch, in float64. The plainest code there is, nothing of it shared
        with ``loss``. None: there is no such code.
        """
        return None

    def rates(self) -> Sequence[Rate]:
        """The parameters whose learning rate is not the schedule's: frozen, constant, or a multiple."""
        return ()

    def forward(self, batch: Batch, targets: Tensors | None = None, *, embed_only: bool = False) -> Pass:
        """What DDP wraps: the embeddings of a batch and, unless ``embed_only``, the loss with its metrics."""
        embeddings = self.embedded(batch)
        if embed_only:
            return Pass(embeddings, {})
        return Pass(embeddings, self.global_loss(embeddings, targets or {}, batch))

    def global_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """``loss`` in full precision, whatever the kernels of ``embed`` work in."""
        with torch.autocast(batch.device.type, enabled=False):
            return self.loss(in_full(embeddings), in_full(targets), batch)


def in_full(tensors: Tensors) -> Tensors:
    """Half-precision tensors in float32; others as they are."""
    return {
        name: each.float() if each.dtype in (torch.float16, torch.bfloat16) else each for name, each in tensors.items()
    }
