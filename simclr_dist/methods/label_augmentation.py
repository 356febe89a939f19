"""Label augmentation (SLA): class and transformation are told together, as one label."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_dist.config import Recipe
from simclr_dist.config.fields import MOST_CHANNELS, number, one_of
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.losses.classification import classified
from simclr_dist.methods.base import About, Batch, Method, MethodKeys, Metric, Tensors, ViewGroup
from simclr_dist.methods.parts import Parts
from simclr_dist.methods.published_views import one_plain
from simclr_dist.methods.transformations import TRANSFORMATIONS

_SMALL_CLASSES = 10


class LabelAugmentation(Method):
    """Lee et al. 2020 (arXiv 1910.05872): SLA, its aggregation (AG) and, where asked for, its self-distillation (SD).

    Every image is in the batch once in each transformation, so 128 images are 512 rows of the network with rotation.
    """

    recordable = True
    ABOUT: ClassVar[About | None] = About(
        title="SLA", paper="Lee et al. 2020", arxiv="1910.05872",
        equation=(
            "L = mean over images i and transformations t of -log softmax(W f(t(x_i)))[(y_i, t)]\n"
            "AG: a_i = 1/M sum_t (W f(t(x_i)))[(., t)]        SD: L + T^2 KL(a_i/T || s_i/T) - log softmax(s_i)[y_i]"
        ),
    )  # fmt: skip

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of label augmentation."""

        classes: int = number(10, low=2, high=MOST_CHANNELS)
        """Of the images; labels are below it."""
        transformation: str = one_of("rotation", tuple(TRANSFORMATIONS))
        """Every image has a copy in each. `rotation`: turned by 0, 90, 180 and 270 degrees; `color_perm`: in the six
        orders of the colours; `color_perm3`: in three of them; `rot_color_perm6`: in these, upright and upside down."""
        self_distillation: bool = False
        """A second classifier sees the image as it is, and learns the label and what the aggregation says of it."""
        distillation_temperature: float = number(1.0, above=0.0)
        """T: divides both sides' logits in self-distillation."""
        summed: bool = False
        """The sum over transformations in the place of their mean: M times the loss (the published runs on larger
        images)."""

    METRICS: ClassVar[Mapping[str, Metric]] = {
        "aggregated_top1": Metric(
            title="aggregated top-1", unit="%", role="headline", band=True, from_zero=True,
            text="the class is told by the mean logits of all copies, each of its own transformation",
            below="the learning rate", above="whether the classes are those that the band is of",
        ),
        "single_top1": Metric(
            title="single top-1", unit="%", from_zero=True,
            text="the class is told from the image as it is: in self-distillation by the second classifier, else by "
            "the first one's logits of no transformation",
        ),
        "joint_top1": Metric(
            title="joint top-1", unit="%", from_zero=True, text="class and transformation of a copy are both told"
        ),
    }  # fmt: skip
    PICTURES: ClassVar[str] = "the input, a copy in each transformation, which with the class is the answer"

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        self.copies, _ = TRANSFORMATIONS[config.transformation]
        self.encoder = make.encoder()
        self.joint = nn.Linear(self.encoder.output_dim, config.classes * self.copies)
        self.single = nn.Linear(self.encoder.output_dim, config.classes) if config.self_distillation else None

    @classmethod
    def views(cls, config: MethodKeys) -> dict[str, ViewGroup]:
        """A crop in its own colours."""
        return one_plain(crop_area_min=0.5)

    @classmethod
    def most_classes(cls, config: Config) -> int | None:
        """As the keys say."""
        return config.classes

    @classmethod
    def small(cls, config: Config, images: int) -> Config:
        """With ten classes."""
        return replace(config, classes=_SMALL_CLASSES)

    @classmethod
    def pictures(cls, recipe: Recipe, batch: Batch) -> Tensor:
        """The copies."""
        return copies_of(batch, recipe.method)

    def prepare(self, batch: Batch) -> Batch:
        """With the copies (images, M, 3, s, s) in the place of the views; the first is the view itself."""
        return replace(batch, views={"copies": copies_of(batch, self.config)})

    def embed(self, batch: Batch) -> Tensors:
        """``joint``: logits (images, M, classes, M) of class and transformation for each copy; ``single`` (images,
        classes), of the first copy, in self-distillation; ``features`` (images, d) of the first, without a gradient."""
        copies = batch.views["copies"]
        features = self.encoder(copies.flatten(0, 1))
        joint = self.joint(features).view(*copies.shape[:2], -1, self.copies)
        first = features.unflatten(0, copies.shape[:2])[:, 0]
        single = {"single": self.single(first)} if self.single else {}
        return {"features": first.detach(), "joint": joint, **single}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """Equations 3 and 5, averaged over the global batch."""
        assert batch.labels is not None  # ``needs`` refuses images without labels
        logits, labels = embeddings["joint"], batch.labels
        copies = torch.arange(self.copies, device=labels.device)
        joint = classified(logits.flatten(2), labels[:, None] * self.copies + copies)
        loss = joint.loss * (self.copies if self.config.summed else 1)
        aggregated = logits.detach().diagonal(dim1=1, dim2=3).mean(-1)
        single = embeddings.get("single", logits[:, 0, :, 0])
        told = classified(single, labels)
        if self.config.self_distillation:
            temperature = self.config.distillation_temperature
            distances = F.kl_div(
                F.log_softmax(single / temperature, dim=1), F.softmax(aggregated / temperature, dim=1), reduction="none"
            ).sum(1)
            loss = loss + told.loss + temperature**2 * global_batch(distances, "distances to the aggregation").mean()
        return {
            "loss": loss,
            "aggregated_top1": classified(aggregated, labels).top1,
            "single_top1": told.top1,
            "joint_top1": joint.top1,
        }

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """Image by image and copy by copy."""
        assert batch.labels is not None
        total, temperature = embeddings["joint"].new_zeros(()), self.config.distillation_temperature
        for image, label in enumerate(batch.labels.tolist()):
            logits = embeddings["joint"][image]
            for copy in range(self.copies):
                weight = 1 if self.config.summed else 1 / self.copies
                total = total - weight * (logits[copy, label, copy] - logits[copy].flatten().logsumexp(0))
            if self.config.self_distillation:
                single = embeddings["single"][image]
                aggregated = torch.stack([logits[copy, :, copy].detach() for copy in range(self.copies)]).mean(0)
                teacher, student = (F.log_softmax(each / temperature, dim=0) for each in (aggregated, single))
                total = total - F.log_softmax(single, dim=0)[label]
                total = total + temperature**2 * (teacher.exp() * (teacher - student)).sum()
        return total / len(batch.labels)


def copies_of(batch: Batch, config: Any) -> Tensor:
    """The view of each image in every transformation, (images, M, 3, s, s)."""
    _, transformed = TRANSFORMATIONS[config.transformation]
    return transformed(batch.views["global"][:, 0])
