"""Distributed large-batch contrastive pretraining whose trajectory depends on the recipe alone."""

__version__ = "0.1.0"
