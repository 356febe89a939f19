"""Every registered method in the tiny recipe."""

from pathlib import Path

from simclr_dist.config import Config
from simclr_dist.config.registry import method_class, method_keys
from tests.support.processes import tiny_config

# Images of 8 pixels have a map of 1 with the small stem, whose pixels would be one.
_COLORED = ("recipe.data.source=tests.support.colored_digits:open_source",)
_MASKED = ("recipe.data.source=tests.support.masked_digits:open_source", "recipe.encoder.output_stride=2")
_TIMED = ("recipe.data.source=tests.support.timed_digits:open_source",)


def method_config(name: str, folder: Path, *overrides: str) -> Config:
    """The tiny recipe with the method in its small sizes: a queue is full and wraps within four steps."""
    groups = method_class(name).views(method_keys(name))
    sizes = (f"recipe.views.{group}.size=8" for group, each in groups.items() if each.size)  # no larger than the images
    config = tiny_config(
        folder, *sizes, "recipe.encoder.zero_init_residual=false",  # else residual branches have no gradient at first
        *(_MASKED if "masks" in method_class(name).needs else ()),
        *(_COLORED if "color" in method_class(name).needs else ()),
        *(_TIMED if "time" in method_class(name).needs else ()),
        f"recipe.method.name={name}", "recipe.warmup_epochs=0", "recipe.optimizer.base_learning_rate=2", *overrides,
    )  # fmt: skip
    config.recipe.method = method_class(name).small(config.recipe.method, config.recipe.global_batch_images)
    config.check()
    return config
