"""The three parts of a config, and which of their combinations nothing could run."""

from dataclasses import dataclass, field

from simclr_dist.config.health import Health
from simclr_dist.config.machine import Machine
from simclr_dist.config.recipe import SOURCES_WITHOUT_PATH, Recipe


@dataclass(kw_only=True)
class Config:
    """A whole config file."""

    recipe: Recipe = field(default_factory=Recipe)
    machine: Machine = field(default_factory=Machine)
    health: Health = field(default_factory=Health)

    def check(self) -> None:
        """Refuse combinations that no machine could run.

        Raises:
            ValueError: naming the keys and the cure.
        """
        recipe, views, data = self.recipe, self.recipe.views, self.recipe.data
        self.health.check()
        if recipe.warmup_epochs > recipe.epochs:
            raise ValueError(
                f"recipe.warmup_epochs: {recipe.warmup_epochs:g} is more than recipe.epochs ({recipe.epochs}); "
                "lower the one or raise the other"
            )
        if recipe.batch_norm_group_images and recipe.global_batch_images % recipe.batch_norm_group_images:
            raise ValueError(
                f"recipe.batch_norm_group_images: {recipe.batch_norm_group_images} does not divide "
                f"recipe.global_batch_images ({recipe.global_batch_images}); take a divisor, or 0 for the whole batch"
            )
        if views.crop_area_min > views.crop_area_max:
            raise ValueError("recipe.views.crop_area_min: must not exceed recipe.views.crop_area_max; swap them")
        if views.blur_sigma_min > views.blur_sigma_max:
            raise ValueError("recipe.views.blur_sigma_min: must not exceed recipe.views.blur_sigma_max; swap them")
        if views.hue * views.color_strength > 0.5:
            raise ValueError(
                "recipe.views.hue: times recipe.views.color_strength is above 0.5, half the circle; lower it"
            )
        if min(data.std) <= 0:
            raise ValueError(f"recipe.data.std: {data.std} divides the pixels; all three must be above 0")
        if recipe.optimizer.name in ("adamw", "lamb") and recipe.optimizer.momentum >= 1:
            raise ValueError(
                f"recipe.optimizer.momentum: 1 cannot be the first beta of {recipe.optimizer.name}; take 0.9, say"
            )
        if bool(data.path) == (data.source in SOURCES_WITHOUT_PATH):
            raise ValueError(
                f"recipe.data.path: '{data.path}' has no meaning for source '{data.source}'; remove it"
                if data.path
                else f"recipe.data.path: source '{data.source}' needs it; set recipe.data.path=FOLDER"
            )
