"""SimCLR: one encoder and one head for all views, NT-Xent between the two views of every image."""

import math

from torch import Tensor, nn

from simclr_dist.distributed.collectives import process_count
from simclr_dist.losses import nt_xent
from simclr_dist.models.encoder import Encoder


class SimCLR(nn.Module):
    """Chen et al. 2020, algorithm 1, as one module: DDP wraps it once and torch.compile sees all of it."""

    def __init__(self, encoder: Encoder, projection: nn.Module, *, temperature: float, loss_scale: float = 1.0) -> None:
        super().__init__()
        self.encoder, self.projection = encoder, projection
        self.temperature, self.loss_scale = temperature, loss_scale

    def forward(self, views: Tensor, *, embed_only: bool = False) -> dict[str, Tensor]:
        """The loss and the metrics of a batch, as :meth:`loss` gives them of what :meth:`embed` gives.

        ``embed_only`` returns only ``embeddings``: DDP prepares its reduction for the one method that it wraps, and
        gradient caching goes through the encoder without the loss.
        """
        embeddings = self.embed(views)
        return {"embeddings": embeddings} if embed_only else self.loss(embeddings)

    def embed(self, views: Tensor) -> Tensor:
        """Embeddings (local images, 2, d) of uint8 views (local images, 2, 3, height, width)."""
        # Both views go through together, image by image: batch norm sees both, and its groups are whole images.
        return self.projection(self.encoder(views.flatten(0, 1))).unflatten(0, views.shape[:2])  # type: ignore[no-any-return]

    def loss(self, embeddings: Tensor) -> dict[str, Tensor]:
        """``loss`` (scalar, to be differentiated) and detached scalars, all over the global batch."""
        result = nt_xent(embeddings[:, 0], embeddings[:, 1], self.temperature)
        rows = 2 * len(embeddings) * process_count()
        return {
            "loss": self.loss_scale * result.loss,
            "contrastive_top1": result.top1,
            "contrastive_top5": result.top5,
            "positive_rank_mean": result.positive_rank_mean,
            # Poole et al. 2019: log of the number of candidates minus the InfoNCE loss.
            "mutual_information_bound": math.log(rows - 1) - result.loss.detach(),
            "embedding_std": result.embedding_std,
        }
