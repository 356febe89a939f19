"""The three parts of a config, and which of their combinations nothing could run."""

from dataclasses import dataclass, field

from simclr_dist.config.health import Bands, check_bands
from simclr_dist.config.initial import check_initial
from simclr_dist.config.machine import Machine
from simclr_dist.config.metric import EVERY_METHOD, Metric
from simclr_dist.config.recipe import SOURCES, SOURCES_WITH_MASKS, SOURCES_WITHOUT_PATH, Recipe, dilated_stages, widened
from simclr_dist.config.registry import load, method_class
from simclr_dist.config.views import ViewGroup

MOST_VIEWS = 256
"""Of an image, in all groups: a view's number has eight bits of the random numbers' counter."""


@dataclass(kw_only=True)
class Config:
    """A whole config file."""

    recipe: Recipe = field(default_factory=Recipe)
    machine: Machine = field(default_factory=Machine)
    health: dict[str, Bands] = field(default_factory=dict)
    """Metric -> its bands."""

    @property
    def metrics(self) -> dict[str, Metric]:
        """What a step may tell: of the recipe's method, of its embeddings' rank, of an online evaluation."""
        return {**method_class(self.recipe.method.name).METRICS, **EVERY_METHOD}

    def check(self) -> None:
        """Refuse combinations that no machine could run.

        Raises:
            ValueError: naming the keys and the cure.
        """
        recipe, data = self.recipe, self.recipe.data
        check_bands(self.health, self.metrics)
        check_initial(recipe.initial)
        if recipe.warmup_epochs > recipe.epochs:
            raise ValueError(
                f"recipe.warmup_epochs: {recipe.warmup_epochs:g} is more than recipe.epochs ({recipe.epochs}); "
                "lower the one or raise the other, or set recipe.warmup_epochs=-1 for a tenth of the epochs"
            )
        if recipe.batch_norm_group_images and recipe.global_batch_images % recipe.batch_norm_group_images:
            raise ValueError(
                f"recipe.batch_norm_group_images: {recipe.batch_norm_group_images} does not divide "
                f"recipe.global_batch_images ({recipe.global_batch_images}); take a divisor, or 0 for the whole batch"
            )
        if self.machine.keep_best != "none" and not self.machine.evaluate_every_epochs:
            raise ValueError(
                f"machine.keep_best: {self.machine.keep_best} is known at online evaluations alone; set "
                "machine.evaluate_every_epochs=1, say, or machine.keep_best=none"
            )
        # Before the views: where small ones do not fit the images, what else is wrong with them follows from it.
        method_class(recipe.method.name).check(recipe)
        for number, (name, group) in enumerate(recipe.views.items()):
            _check_views(f"recipe.views.{name}", group)
            if group.frame == "near" and not group.frame_distance:
                raise ValueError(
                    f"recipe.views.{name}.frame_distance: a frame 'near' another is at least 1 away; raise it, or "
                    f"leave recipe.views.{name}.frame out"
                )
            if group.crop_of and group.crop_of not in (before := list(recipe.views)[:number]):
                raise ValueError(
                    f"recipe.views.{name}.crop_of: '{group.crop_of}' is no group before {name}; "
                    f"{'take ' + ' or '.join(before) if before else 'it is the first'}, or leave the key out"
                )
        if (views := sum(group.count for group in recipe.views.values())) > MOST_VIEWS:
            raise ValueError(f"recipe.views: {views} views of an image in all groups; at most {MOST_VIEWS}")
        if min(data.std) <= 0:
            raise ValueError(f"recipe.data.std: {data.std} divides the pixels; all three must be above 0")
        if recipe.optimizer.name in ("adamw", "lamb") and recipe.optimizer.momentum >= 1:
            raise ValueError(
                f"recipe.optimizer.momentum: 1 cannot be the first beta of {recipe.optimizer.name}; take 0.9, say"
            )
        if recipe.optimizer.learning_rate_decay == "steps" and recipe.optimizer.final_learning_rate_share:
            raise ValueError(
                "recipe.optimizer.final_learning_rate_share: is where a cosine ends, and "
                "recipe.optimizer.learning_rate_decay is 'steps'; leave one of the two out"
            )
        _check_encoder(recipe, self.machine)
        if ":" in recipe.encoder.name and self.machine.recompute != "none":
            raise ValueError(
                f"machine.recompute: '{self.machine.recompute}' is for the ResNets of this project; "
                f"{recipe.encoder.name} can call torch.utils.checkpoint itself; set machine.recompute=none"
            )
        if data.labelled_images and data.source not in SOURCES_WITH_MASKS:
            raise ValueError(
                f"recipe.data.labelled_images: is for sources with masks ({', '.join(SOURCES_WITH_MASKS)}), not for "
                f"'{data.source}'; leave the key out"
            )
        if data.source in SOURCES and bool(data.path) == (data.source in SOURCES_WITHOUT_PATH):
            raise ValueError(
                f"recipe.data.path: '{data.path}' has no meaning for source '{data.source}'; remove it"
                if data.path
                else f"recipe.data.path: source '{data.source}' needs it; set recipe.data.path=FOLDER"
            )


def _check_encoder(recipe: Recipe, machine: Machine) -> None:
    encoder = recipe.encoder
    if encoder.is_resnet:
        dilated_stages(encoder.stem, encoder.output_stride)
        widened(64, encoder.width)  # its first layers have the fewest channels
    if encoder.of_timm:
        load("recipe.encoder.name", "timm", {"timm": "simclr_dist.models.timm_check:check_recipe"})(recipe)
        if machine.compile and machine.recompute != "none":
            raise ValueError(
                f"machine.compile: is not for {encoder.name} with machine.recompute={machine.recompute}; set one of "
                "the two off"
            )
        return
    for key, value, nothing in (("options", encoder.options, {}), ("frozen", encoder.frozen, "none")):
        if value != nothing:
            raise ValueError(
                f"recipe.encoder.{key}: is for timm's models (recipe.encoder.name=timm/NAME), not for "
                f"'{encoder.name}'; leave the key out"
            )


def _check_views(key: str, views: ViewGroup) -> None:
    if views.crop_area_min > views.crop_area_max:
        raise ValueError(
            f"{key}.crop_area_min: must not exceed {key}.crop_area_max, and {views.crop_area_min:g} > "
            f"{views.crop_area_max:g}; give this group both (a key directly below recipe.views is every group's)"
        )
    if views.blur_sigma_min > views.blur_sigma_max:
        raise ValueError(f"{key}.blur_sigma_min: must not exceed {key}.blur_sigma_max; swap them")
    if views.hue * views.color_strength > 0.5:
        raise ValueError(f"{key}.hue: times {key}.color_strength is above 0.5, half the circle; lower it")
    if 0 < views.size < 8:
        raise ValueError(f"{key}.size: {views.size} pixels are too few; at least 8, or 0 for recipe.data.image_size")
