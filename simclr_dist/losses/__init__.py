"""Contrastive losses over the global batch with exact gradients."""

from simclr_dist.losses.nt_xent import NTXentLoss, NTXentResult, nt_xent

__all__ = ["NTXentLoss", "NTXentResult", "nt_xent"]
