"""Pretraining methods. A method is one module: views in, the loss and its metrics out."""

from simclr_dist.methods.simclr import SimCLR

__all__ = ["SimCLR"]
