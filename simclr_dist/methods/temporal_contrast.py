"""Temporal contrast: frames near in time attract, others repel; with two cameras, the views of one moment."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.config import Recipe
from simclr_dist.config.fields import MOST_CHANNELS, number, one_of
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.losses.spread import EMBEDDING_STD, embedding_std
from simclr_dist.losses.time_contrast import (
    n_pairs,
    near_and_far,
    nearest_is_near,
    nt_xent_in_time,
    semi_hard_triplet,
    without_itself,
)
from simclr_dist.methods.base import About, Batch, Method, MethodKeys, Metric, Tensors, ViewGroup
from simclr_dist.methods.parts import Parts

_VIEWS = ("anchor", "partner")


class TemporalContrast(Method):
    """Sermanet et al. 2018 (arXiv 1704.06888), time-contrastive networks, of one camera or of several.

    Each frame comes with a partner that is near in time, or of another camera at the same moment; in the global batch
    all pairs that are near attract, and those far apart or of different sequences repel.
    """

    recordable = True
    ABOUT: ClassVar[About | None] = About(
        title="Time contrast (TCN)", paper="Sermanet et al. 2018", arxiv="1704.06888",
        equation=(
            "L = mean over near pairs (i, p) of max(0, margin + |z_i - z_p|^2 - |z_i - z_n|^2),   |z| = 1\n"
            "n: of the rows far from i in time the nearest one that is farther than p, or else the farthest"
        ),
    )  # fmt: skip

    needs: ClassVar[frozenset[str]] = frozenset({"time"})

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of temporal contrast."""

        loss: str = one_of("triplet", ("triplet", "nt_xent", "n_pairs"))
        """`triplet`: semi-hard triplets on unit embeddings. `nt_xent`: each near pair against all far rows. `n_pairs`:
        anchors against partners, embeddings of any length."""
        partner: str = one_of("near", ("near", "camera"))
        """The frame that comes with each: one `near` it, of the same camera (single-view TCN), or of another `camera`
        (multi-view TCN: positive_frames and negative_frames 0)."""
        positive_frames: int = number(6, low=0, high=10**9)
        """Frames of one sequence at most so many numbers apart attract, whatever their cameras."""
        negative_frames: int = number(12, low=0, high=10**9)
        """Frames more than so many numbers apart repel, and those of different sequences; others do neither."""
        margin: float = number(0.2, low=0.0)
        """Of the triplet loss, between squared distances."""
        temperature: float = number(0.1, low=0.002)
        """Divides the similarities of nt_xent."""
        embedding_decay: float = number(0.002, low=0.0)
        """Weight of the squared lengths of the embeddings in n_pairs."""
        output_dim: int = number(32, low=2, high=MOST_CHANNELS)
        """Size of the embedding, one linear layer after the encoder."""

    METRICS: ClassVar[Mapping[str, Metric]] = {
        "contrastive_top1": Metric(
            title="contrastive top-1", unit="%", role="headline", band=True, from_zero=True,
            text="the most similar frame of the batch is near in time",
            below="the learning rate, recipe.method.positive_frames and, in metrics.jsonl, embedding_std (0: collapse)",
            above="the frames (simclr-dist preview: do far ones look alike?)",
        ),
        "embedding_std": EMBEDDING_STD,
    }  # fmt: skip

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = make.encoder()
        self.projection = make.mlp((self.encoder.output_dim, config.output_dim), bias=True, norm=False)

    @classmethod
    def views(cls, config: Any) -> dict[str, ViewGroup]:
        """A view of a frame and one of its partner, cropped little and never mirrored: a side may be what happens."""
        view = ViewGroup(
            count=1, crop_area_min=0.5, flip_probability=0.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1,
            blur_probability=0.0,
        )  # fmt: skip
        partner = replace(view, frame=config.partner, frame_distance=config.positive_frames)
        return {"anchor": view, "partner": partner}

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """Also refuses windows that contradict each other, and partners that are none."""
        super().check(recipe)
        keys: Any = recipe.method
        if keys.negative_frames < keys.positive_frames:
            raise ValueError(
                f"recipe.method.negative_frames: {keys.negative_frames} is less than recipe.method.positive_frames, "
                f"{keys.positive_frames}; frames cannot be near and far at once"
            )
        if keys.partner == "near" and not keys.positive_frames:
            raise ValueError(
                "recipe.method.positive_frames: no frame is 0 away from another of its camera; raise it, or set "
                "recipe.method.partner=camera"
            )
        anchor, partner = (recipe.views[name] for name in _VIEWS)
        if (anchor.frame, partner.frame) != ("own", keys.partner) or partner.frame_distance > keys.positive_frames:
            raise ValueError(
                "recipe.views: the anchor shows the sample's own frame, the partner one that recipe.method.partner and "
                "recipe.method.positive_frames say; leave frame and frame_distance out"
            )
        if anchor.side(recipe.data.image_size) != partner.side(recipe.data.image_size):
            raise ValueError(
                f"recipe.views.partner.size: {partner.size} is not recipe.views.anchor.size, {anchor.size}; make them "
                "equal"
            )

    @classmethod
    def repels_beyond(cls, config: Any) -> int | None:
        """As the keys say."""
        return int(config.negative_frames)

    def embed(self, batch: Batch) -> Tensors:
        """``z``: embeddings (images, 2, d) of the anchors and of their partners; of unit length but for n-pairs."""
        views = torch.cat([batch.views[name] for name in _VIEWS], dim=1)
        z: Tensor = self.projection(self.encoder(views.flatten(0, 1)))
        if self.config.loss != "n_pairs":
            z = F.normalize(z, dim=1)
        return {"z": z.unflatten(0, views.shape[:2])}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """The mean over the near pairs of the global batch, anchors and partners alike rows of it."""
        keys, z = self.config, global_batch(embeddings["z"], "embeddings")
        sequence, frame = self._times(batch)
        rows, all_times = z.flatten(0, 1), (sequence.flatten(), frame.flatten())
        near, far = near_and_far(all_times, all_times, keys.positive_frames, keys.negative_frames)
        near = without_itself(near)
        if keys.loss == "triplet":
            loss = semi_hard_triplet(rows, near, far, keys.margin)
        elif keys.loss == "nt_xent":
            loss = nt_xent_in_time(rows, near, far, keys.temperature)
        else:
            pairs = near_and_far(
                (sequence[:, 0], frame[:, 0]), (sequence[:, 1], frame[:, 1]), keys.positive_frames, keys.negative_frames
            )
            loss = n_pairs(z[:, 0], z[:, 1], *pairs, keys.embedding_decay)
        return {
            "loss": loss,
            "contrastive_top1": nearest_is_near(rows, near, far),
            "embedding_std": embedding_std(rows),
        }

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """Pair by pair."""
        keys, z = self.config, embeddings["z"]
        places = torch.stack(self._times(batch), dim=-1).flatten(0, 1).tolist()
        rows = z.flatten(0, 1)
        anchors, columns = range(len(rows)), range(len(rows))
        if keys.loss == "n_pairs":
            anchors, columns = range(0, len(rows), 2), range(1, len(rows), 2)
        losses = []
        for i in anchors:
            near, far = [], []
            for j in columns:
                apart = abs(places[i][1] - places[j][1]) if places[i][0] == places[j][0] else None
                if j != i and apart is not None and apart <= keys.positive_frames:
                    near.append(j)
                elif apart is None or apart > keys.negative_frames:
                    far.append(j)
            losses += self._of_anchor(rows, i, near, far)
        loss = torch.stack(losses).mean()
        if keys.loss == "n_pairs":
            loss = loss + keys.embedding_decay / 4 * (z.norm(dim=2) ** 2).mean(0).sum()
        return loss

    def _of_anchor(self, rows: Tensor, i: int, near: list[int], far: list[int]) -> list[Tensor]:
        keys = self.config
        if keys.loss == "n_pairs":
            log_p = F.log_softmax(rows[near + far] @ rows[i], dim=0)
            return [-log_p[: len(near)].mean()]
        if keys.loss == "nt_xent":
            similarity = rows @ rows[i] / keys.temperature
            return [torch.logsumexp(similarity[[p, *far]], 0) - similarity[p] for p in near if far]
        distance = (rows - rows[i]).square().sum(1)
        losses = []
        for p in near if far else []:
            beyond = [n for n in far if distance[n] > distance[p]]
            n = min(beyond, key=lambda j: distance[j].item()) if beyond else max(far, key=lambda j: distance[j].item())
            losses.append(F.relu(keys.margin + distance[p] - distance[n]))
        return losses

    def _times(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sequence and frame number of the rows of the global batch, int64 (images, 2) each."""
        own = [torch.stack(batch.time[name][:2], dim=1) for name in _VIEWS]
        times = global_batch(torch.stack(own, dim=1), "times of the frames")
        return times[..., 0], times[..., 1]
