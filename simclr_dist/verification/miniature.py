"""The recipe in small, so that every check takes seconds: tiny networks and images, few of them."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from simclr_dist.config import Recipe
from simclr_dist.config.registry import method_class
from simclr_dist.config.views import ViewGroup
from simclr_dist.data.loading.batch import Batch, blank_batch
from simclr_dist.data.loading.order import SampleOrder
from simclr_dist.data.sources.base import IGNORED, ArraySource
from simclr_dist.distributed.processes import Processes
from simclr_dist.methods.base import Method
from simclr_dist.methods.build import build_method
from simclr_dist.models.statistics_group import StatisticsGroup, divide_batch_norm
from simclr_dist.models.timm_small import small_timm

IMAGE_SIDE = 16
_SMALLEST_SIDE = 8
_LARGEST_VIEW = 16
"""In sides of a patch of it."""
_CLASSES = 5


class Miniature:
    """A recipe in small on the processes that are here; every process makes one.

    The mapping of batch-norm groups onto processes, the method with its numbers, the views and the optimizer are the
    recipe's; the encoder, the images and the method's sizes are not. A model of timm is itself, with fewer blocks where
    its options say how many, on the smallest images that it takes.
    """

    def __init__(self, recipe: Recipe, processes: Processes, device: torch.device) -> None:
        self.processes, self.device = processes, device
        share = recipe.global_batch_images // processes.count
        group = recipe.batch_norm_group_images or recipe.global_batch_images
        # The same mapping in small: so many groups in a process, or so many processes in a group.
        self.share = 4 * max(2, share // group)
        self.group = self.share * group // share if group >= share else 4
        self.batch = self.share * processes.count
        self.images = 2 * self.batch
        """Of the data set."""
        self.method_class: type[Method] = method_class(recipe.method.name)  # type: ignore[assignment]
        # The small stem leaves a quarter of the other's stride; what one from outside makes of the key is not known.
        stride = recipe.encoder.output_stride // (4 if recipe.encoder.stem == "imagenet" else 1)
        stride = 0 if not recipe.encoder.is_resnet else stride
        encoder, side = (
            replace(
                recipe.encoder,
                name="resnet10",
                width=0.25,
                stem="small",
                zero_init_residual=False,
                output_stride=stride,
            ),
            IMAGE_SIDE,
        )
        if recipe.encoder.of_timm:
            encoder, side = small_timm(recipe)
        self.recipe = replace(
            recipe,
            global_batch_images=self.batch,
            batch_norm_group_images=self.group,
            data=replace(recipe.data, image_size=side),
            method=self.method_class.small(recipe.method, self.batch),
            views=views_of_one_side(recipe, side) if recipe.encoder.of_timm else resized(recipe, side),
            encoder=encoder,
        )
        self.order = SampleOrder(seed=recipe.seed, images=self.images, global_batch_images=self.batch)

    def random(self, *shape: int, seed: int = 0) -> Tensor:
        """The same float64 numbers on every process and device."""
        generator = torch.Generator().manual_seed(1000 * seed + sum(shape))
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.device)

    def own(self, batch: Tensor) -> Tensor:
        """This process's share of the global batch's rows."""
        return batch.chunk(self.processes.count)[self.processes.rank].clone()

    def statistics(self, group: int = 0, chunk_images: int = 0) -> StatisticsGroup:
        """How batch-norm groups of ``group`` images (0: the recipe's) lie on the processes. All must call it."""
        return divide_batch_norm(group or self.group, self.batch, self.processes.count, chunk_images=chunk_images)

    def method(self, statistics: StatisticsGroup | None = None, group: int = 0) -> Method:
        """The method in float64 with the recipe's initial weights, the same at every call."""
        recipe = replace(self.recipe, batch_norm_group_images=group or self.group)
        return build_method(recipe, self.images, statistics).to(self.device, torch.float64)

    def global_batch(self) -> Batch:
        """A global batch of noise, the views of an image alike; with labels, masks (some of them all ignored), geometry
        and time where the method needs them."""
        blank = blank_batch(self.recipe, self.batch, self.device)
        samples = torch.from_numpy(self.order.samples(1))
        labels = self.random(self.batch, seed=99).mul(100).long() % _CLASSES
        return Batch(
            views={
                name: self._pixels(group.count, group.size, number)
                for number, (name, group) in enumerate(self.recipe.views.items())
            },
            samples=samples,
            epoch=self.order.epoch(1),
            seed=self.recipe.seed,
            labels=labels if "labels" in self.method_class.needs else None,
            masks=self._masks() if "masks" in self.method_class.needs else {},
            geometry=blank.geometry,
            time=blank.time,
        )

    def own_batch(self) -> Batch:
        """This process's share of :meth:`global_batch`."""
        return self.global_batch().split(self.share)[self.processes.rank]

    def source(self) -> ArraySource:
        """Noise as a data set."""
        pixels = np.random.default_rng(0).integers(0, 256, (self.images, 3, 20, 24), dtype=np.uint8)
        return ArraySource(pixels, None, [])

    def _masks(self) -> dict[str, Tensor]:
        """Squares of classes and of IGNORED; every fourth image has no mask."""
        squares: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        for number, (name, group) in enumerate(self.recipe.views.items()):
            drawn = self.random(self.batch, group.count, 4, 4, seed=200 + number).mul(100).long() % (_CLASSES + 1)
            drawn[drawn == _CLASSES] = IGNORED
            drawn[::4] = IGNORED
            squares[name] = squares[group.crop_of][:, :1].expand_as(drawn) if group.crop_of else drawn
            side = -(-group.size // 4)
            found = squares[name].repeat_interleave(side, 2).repeat_interleave(side, 3)
            masks[name] = found[..., : group.size, : group.size].to(torch.uint8)
        return masks

    def _pixels(self, count: int, side: int, seed: int) -> Tensor:
        views = self.random(self.batch, count, 3, side, side, seed=seed)
        image = self.random(self.batch, 1, 3, side, side, seed=seed + 50)
        return (128 + 40 * (image + views)).clamp(0, 255).to(torch.uint8)


def views_of_one_side(recipe: Recipe, side: int) -> dict[str, ViewGroup]:
    """The recipe's groups of views, all of one size: the smallest with which encoders get images of ``side`` pixels."""
    sides = method_class(recipe.method.name).sides
    for size in range(side, _LARGEST_VIEW * side):
        views = {name: replace(group, size=size) for name, group in recipe.views.items()}
        if sides(replace(recipe, views=views)) == [side]:
            return views
    return {name: replace(group, size=side) for name, group in recipe.views.items()}


def resized(recipe: Recipe, largest: int) -> dict[str, ViewGroup]:
    """The recipe's groups of views, the largest with ``largest`` pixels a side and the others in proportion."""
    sides = {name: group.side(recipe.data.image_size) for name, group in recipe.views.items()}
    scale = largest / max(sides.values())
    return {
        name: replace(group, size=max(_SMALLEST_SIDE, round(scale * sides[name])))
        for name, group in recipe.views.items()
    }
