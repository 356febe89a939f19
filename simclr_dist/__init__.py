"""Distributed large-batch contrastive pretraining whose trajectory depends on the recipe alone."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simclr_dist.weights.loaded import LoadedEncoder
    from simclr_dist.weights.read import load_encoder

__all__ = ["LoadedEncoder", "__version__", "load_encoder"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Loaded when asked for: the command answers --help and bad input without torch.
    if name == "load_encoder":
        from simclr_dist.weights.read import load_encoder

        return load_encoder
    if name == "LoadedEncoder":
        from simclr_dist.weights.loaded import LoadedEncoder

        return LoadedEncoder
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
