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

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        """The loss and the metrics of a batch.

        Args:
            views: uint8, (local images, 2, 3, height, width).

        Returns:
            ``loss`` (scalar, to be differentiated) and detached scalars, all over the global batch.
        """
        # Both views go through together, image by image: batch norm sees both, and its groups are whole images.
        embeddings = self.projection(self.encoder(views.flatten(0, 1))).unflatten(0, views.shape[:2])
        result = nt_xent(embeddings[:, 0], embeddings[:, 1], self.temperature)
        rows = 2 * views.shape[0] * process_count()
        return {
            "loss": self.loss_scale * result.loss,
            "contrastive_top1": result.top1,
            "contrastive_top5": result.top5,
            "positive_rank_mean": result.positive_rank_mean,
            # Poole et al. 2019: log of the number of candidates minus the InfoNCE loss.
            "mutual_information_bound": math.log(rows - 1) - result.loss.detach(),
            "embedding_std": result.embedding_std,
        }
