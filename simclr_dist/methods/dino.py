"""DINO: a student says, from any view, what its own moving average says of each whole view; no negatives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_dist.config import Recipe
from simclr_dist.config.fields import MOST_CHANNELS, number
from simclr_dist.distributed.collectives import gather_stacked
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.losses.spread import EMBEDDING_STD, embedding_std
from simclr_dist.methods.base import About, Batch, Method, MethodKeys, Metric, Published, Rate, Tensors, ViewGroup
from simclr_dist.methods.multi_crop import check_small, features_by_size, with_small
from simclr_dist.methods.parts import Parts
from simclr_dist.methods.published_views import like_byol
from simclr_dist.models.follower import follow, follower_of, rising_momentum
from simclr_dist.models.weight_norm import WeightNormedLinear

_WHOLE = ("first", "second")  # which the teacher sees


class Head(nn.Module):
    """DINO's: three linear layers with GELU to a bottleneck of unit length, and a weight-normed layer."""

    def __init__(self, config: "DINO.Config", make: Parts, features: int) -> None:
        super().__init__()
        sizes = (features, config.hidden_dim, config.hidden_dim, config.bottleneck_dim)
        self.mlp = make.mlp(sizes, bias=True, norm=config.head_batch_norm, gelu=True)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)  # published: cut off at 100 standard deviations
                nn.init.zeros_(layer.bias)
        self.last_layer = WeightNormedLinear(
            config.bottleneck_dim, config.output_dim, trained_length=not config.norm_last_layer
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (rows, d) to the bottleneck (rows, bottleneck_dim) and the outputs (rows, output_dim)."""
        z = F.normalize(self.mlp(features), dim=1)
        return z, self.last_layer(z)


class DINO(Method):
    """Caron et al. 2021 (arXiv 2104.14294), as its published code computes it.

    The teacher starts as a copy of the student, has running statistics of its own, and its outputs are centred by
    their moving mean over global batches. Both whole views go through a network in one pass, small ones in another.
    """

    recordable = True
    HEAD: ClassVar[str] = "projection.mlp"
    """To the bottleneck, as other heads before it is made unit length; the layer after it makes probabilities."""
    ABOUT: ClassVar[About | None] = About(
        title="DINO", paper="Caron et al. 2021", arxiv="2104.14294", keeps=("second encoder", "centre"),
        published=Published(75.3, epochs=800, from_memory=True),
        equation=(
            "loss = mean over u, v, images of - sum over k of softmax((t_u - c) / T_t)_k log softmax(s_v / T_s)_k\n"
            "c <- m c + (1 - m) mean of t over the whole views of the global batch        "
            "teacher <- tau teacher + (1 - tau) student"
        ),
    )  # fmt: skip

    center: Tensor

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of DINO."""

        small_views: int = number(8, low=0, high=62)
        """Small views of an image beside the two whole ones (the group `small`; 0: none), for the student alone."""
        student_temperature: float = number(0.1, above=0.0)
        """Divides the student's outputs."""
        teacher_temperature: float = number(0.04, above=0.0)
        """Divides the teacher's centred outputs, after their warm-up."""
        first_teacher_temperature: float = number(0.04, above=0.0)
        """That of the first epoch; it rises linearly by epoch (ViT: 0.04 to 0.07)."""
        teacher_temperature_warmup_epochs: int = number(0, low=0)
        """Epochs up to the final teacher_temperature, in the last of which it is reached (ViT: 30). 0: none."""
        teacher_momentum: float = number(0.996, low=0.0, high=1.0)
        """Share of the teacher that stays in the first update; it rises to 1 along a cosine of the step."""
        center_momentum: float = number(0.9, low=0.0, high=1.0)
        """Share of the centre that stays in an update."""
        frozen_epochs: float = number(1.0, low=0.0)
        """Epochs at the start in which the last layer does not move."""
        norm_last_layer: bool = True
        """The rows of the last layer keep the length 1; false: their lengths are trained (published for ViT-S)."""
        head_batch_norm: bool = False
        """Batch norm in the head's hidden layers."""
        hidden_dim: int = number(2048, low=2, high=MOST_CHANNELS)
        """Units of the head's two hidden layers."""
        bottleneck_dim: int = number(256, low=2, high=MOST_CHANNELS)
        """Size of the embedding before the last layer."""
        output_dim: int = number(65536, low=2, high=MOST_CHANNELS)
        """Outputs, over which student and teacher give probabilities."""

    METRICS: ClassVar[Mapping[str, Metric]] = {
        "teacher_agreement": Metric(
            title="agreement with the teacher", unit="%", role="headline", band=True, from_zero=True,
            text="the student's most probable output of a whole view is the teacher's of the other",
            below="the views (simclr-dist preview: are they too different?) and the learning rate",
            above="the views (are they too much alike?) and, in metrics.jsonl, outputs_in_use (1: collapse)",
        ),
        "outputs_in_use": Metric(
            title="outputs in use", from_zero=True, text="exp of the entropy of the mean teacher; 1: collapse onto one",
        ),
        "teacher_entropy": Metric(
            title="entropy of the teacher", unit="nats", from_zero=True,
            text="mean over views; that of the uniform distribution: collapse onto all outputs",
        ),
        "embedding_std": EMBEDDING_STD,
    }  # fmt: skip

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = make.encoder()
        self.projection = Head(config, make, self.encoder.output_dim)
        self.teacher_encoder = follower_of(self.encoder)
        self.teacher_projection = follower_of(self.projection)
        self.register_buffer("center", torch.zeros(config.output_dim))

    @classmethod
    def views(cls, config: Config) -> dict[str, ViewGroup]:
        """BYOL's two whole views, in larger crops, and small ones that are blurred half of the time."""
        whole = {name: replace(group, crop_area_min=0.14) for name, group in like_byol().items()}
        return with_small(whole, config.small_views, replace(whole["first"], blur_probability=0.5))

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """Refuse whole views of two sizes, and small views that are larger."""
        super().check(recipe)
        first, second = (recipe.views[name].side(recipe.data.image_size) for name in _WHOLE)
        if first != second:
            raise ValueError(
                f"recipe.views.second.size: dino's two whole views have one size, not {first} and {second} pixels"
            )
        check_small(recipe, whole="first")

    @classmethod
    def small(cls, config: Config, images: int) -> Config:
        """With a narrow head of 24 outputs, whose last layer moves after one step."""
        return replace(
            config, output_dim=min(config.output_dim, 24), hidden_dim=32, bottleneck_dim=16,
            frozen_epochs=min(config.frozen_epochs, 1e-6),
        )  # fmt: skip

    def targets(self, batch: Batch) -> Tensors:
        """``teacher``: the teacher's outputs of the whole views (images, 2, outputs), neither centred nor divided."""
        features = features_by_size(self.teacher_encoder, _whole(batch))
        return {"teacher": self.teacher_projection(features.flatten(0, 1))[1].unflatten(0, features.shape[:2])}

    def embed(self, batch: Batch) -> Tensors:
        """``student``: its outputs (images, views, outputs), whole views first; ``z``: the bottleneck of the first one,
        (images, d), without a gradient."""
        small = [batch.views["small"]] if "small" in batch.views else []
        features = features_by_size(self.encoder, _whole(batch), *small)
        z, outputs = (each.unflatten(0, features.shape[:2]) for each in self.projection(features.flatten(0, 1)))
        return {"student": outputs, "z": z[:, 0].detach()}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """Equations 1 and 3: cross-entropy of each whole view's teacher and each other view's student, their mean."""
        student = F.log_softmax(embeddings["student"] / self.config.student_temperature, dim=2)
        centred = (targets["teacher"] - self.center.to(student.dtype)) / self.teacher_temperature(batch.epoch)
        teacher = F.softmax(centred, dim=2)
        pairs = teacher @ student.transpose(1, 2)  # (images, 2, views)
        others = 1 - torch.eye(*pairs.shape[1:], dtype=pairs.dtype, device=pairs.device)
        losses = -(pairs * others).sum((1, 2)) / others.sum()
        with torch.no_grad():
            same = student[:, :2].argmax(2) == teacher.argmax(2).flip(1)
            used = global_batch(teacher.mean((0, 1))[None], "mean teachers").mean(0)
            entropy = torch.special.entr(teacher).sum(2).mean(1)
        return {
            "loss": global_batch(losses, "losses of the images").mean(),
            "teacher_agreement": global_batch(same, "agreements").double().mean(),
            "outputs_in_use": torch.special.entr(used).sum().exp(),
            "teacher_entropy": global_batch(entropy, "entropies").mean(),
            "embedding_std": embedding_std(global_batch(embeddings["z"].detach(), "embeddings")),
        }

    def teacher_temperature(self, epoch: int) -> float:
        """That of an epoch, counted from 0."""
        keys = self.config
        if epoch >= keys.teacher_temperature_warmup_epochs:
            return keys.teacher_temperature
        done = epoch / max(1, keys.teacher_temperature_warmup_epochs - 1)
        return keys.first_teacher_temperature + done * (keys.teacher_temperature - keys.first_teacher_temperature)

    def after_update(self, embeddings: Tensors, targets: Tensors, batch: Batch, step: int, steps: int) -> None:
        """The teacher follows the student in its parameters alone, the centre the mean output (equation 4)."""
        momentum = rising_momentum(self.config.teacher_momentum, step, steps)
        follow(self.teacher_encoder, self.encoder, momentum)
        follow(self.teacher_projection, self.projection, momentum)
        # Sums, not rows: a global batch has gigabytes of these.
        own = targets["teacher"].mean((0, 1), dtype=torch.float64)
        mean = gather_stacked(own, label="mean outputs of the teacher").mean(0)
        self.center.lerp_(mean.to(self.center.dtype), 1 - self.config.center_momentum)

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """The published code's order: pairs of views one by one."""
        student, views = embeddings["student"], embeddings["student"].shape[1]
        loss, pairs = torch.zeros((), dtype=student.dtype, device=student.device), 0
        for whole in range(2):
            sharpened = torch.exp((targets["teacher"][:, whole] - self.center) / self.teacher_temperature(batch.epoch))
            teacher = sharpened / sharpened.sum(1, keepdim=True)
            for view in set(range(views)) - {whole}:
                p = torch.softmax(student[:, view] / self.config.student_temperature, dim=1)
                loss, pairs = loss - (teacher * p.log()).sum(1).mean(), pairs + 1
        return loss / pairs

    def rates(self) -> Sequence[Rate]:
        """The last layer is frozen at first: no momentum and no decay moves it either."""
        frozen = self.config.frozen_epochs
        return [
            Rate(
                lambda name, _: name.startswith("projection.last_layer."),
                lambda moment: None if moment.step < frozen * moment.steps_per_epoch else moment.scheduled,
            )
        ]


def _whole(batch: Batch) -> Tensor:
    """The whole views (images, 2, ...)."""
    return torch.cat([batch.views[name] for name in _WHOLE], dim=1)
