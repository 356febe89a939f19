"""What a method sees of a step: views of one process's share of the global batch, and what belongs to the images."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from simclr_dist.config import Recipe
from simclr_dist.config.registry import method_class
from simclr_dist.data.views.color_choices import ColorChoices
from simclr_dist.data.views.frame_time import FrameTime
from simclr_dist.data.views.view_geometry import ViewGeometry
from simclr_dist.random.philox import Purpose, uniforms


@dataclass(frozen=True)
class Batch:
    """The images of one process, in the order of the global batch; every tensor's leading dimension is theirs."""

    views: dict[str, Tensor]
    """Group -> uint8 of shape (images, count, 3, side, side); crops still without their colours while there are
    ``choices``."""
    samples: Tensor
    """int64, (images,): the sample ids, always on the CPU; they index banks and seed :meth:`draws`."""
    epoch: int
    """Of the step, counted from 0."""
    seed: int
    """The recipe's."""
    labels: Tensor | None = None
    """int64, (images,): the class of each image, where the source has classes."""
    masks: dict[str, Tensor] = field(default_factory=dict)
    """Group -> uint8 of shape (images, count, side, side): the class of each pixel of a view, 255 where none counts;
    for methods that need masks, else {}."""
    geometry: dict[str, ViewGeometry] = field(default_factory=dict)
    """Group -> where its views lie in their images; for methods that need geometry, else {}."""
    time: dict[str, FrameTime] = field(default_factory=dict)
    """Group -> when the frames that it shows were taken; for methods that need time, else {}."""
    choices: dict[str, ColorChoices] = field(default_factory=dict)
    """Group -> the choices of the colours that the training device has yet to make."""
    color_forms: dict[str, str] = field(default_factory=dict)
    """Group -> recipe.views.GROUP.color_form."""
    broken: list[tuple[int, str]] = field(default_factory=list)
    """(sample id, name and reason) of each image that could not be read and was replaced."""

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def device(self) -> torch.device:
        """Where the views are."""
        return next(iter(self.views.values())).device

    def to(self, device: torch.device) -> "Batch":
        """The batch in pixels on a device: what was left to it of the views (colours, blur) is made there."""
        copy = self.copied_to(device)
        views = dict(copy.views)
        if self.choices:  # torchvision takes as long to import as torch, and `config` renders nothing
            from simclr_dist.data.rendering.device_ import render_colors
        for name, choices in self.choices.items():
            views[name] = render_colors(views[name], choices, self.color_forms[name])
        return replace(copy, views=views, choices={})

    def copied_to(self, device: torch.device) -> "Batch":
        """The batch on a device with what is left to it of the views still to be made: a copy and nothing more."""
        return self._of_device(lambda tensor: tensor.to(device, non_blocking=True))

    @property
    def device_tensors(self) -> list[Tensor]:
        """What :meth:`copied_to` brings to a device: all but the sample ids and choices."""
        labels = [] if self.labels is None else [self.labels]
        geometry = [tensor for each in self.geometry.values() for tensor in each]
        time = [tensor for each in self.time.values() for tensor in each]
        return [*self.views.values(), *labels, *self.masks.values(), *geometry, *time]

    def split(self, images: int) -> "list[Batch]":
        """Parts of so many images each, in order; without ``broken``, which belongs to the whole."""
        return [self._part(slice(start, start + images)) for start in range(0, len(self), images)]

    def draws(self, purpose: str, count: int) -> Tensor:
        """``count`` numbers in [0, 1) for every image, float64 (images, count), on the views' device.

        They are a function of (recipe.seed, ``purpose``, epoch, sample id), so the same on any machine, in any chunk,
        after any restart. Another purpose gives other numbers.
        """
        # A purpose's words take the place of a counter that all methods would have to share: they change the key.
        key = self.seed ^ int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
        drawn = uniforms(key, Purpose.METHOD, self.epoch, self.samples.numpy(), 0, count)
        return torch.from_numpy(drawn).to(self.device)

    def pin_memory(self) -> "Batch":
        """In page-locked memory, from which a GPU copies while the host goes on. DataLoader calls it."""
        return self._each(Tensor.pin_memory)

    def _part(self, rows: slice) -> "Batch":
        return replace(self._each(lambda tensor: tensor[rows]), broken=[])

    def _each(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(
            self._of_device(function),
            samples=function(self.samples),
            choices={name: ColorChoices(*map(function, each)) for name, each in self.choices.items()},
        )

    def _of_device(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(
            self,
            views={name: function(each) for name, each in self.views.items()},
            labels=None if self.labels is None else function(self.labels),
            masks={name: function(each) for name, each in self.masks.items()},
            geometry={name: ViewGeometry(*map(function, each)) for name, each in self.geometry.items()},
            time={name: FrameTime(*map(function, each)) for name, each in self.time.items()},
        )


def blank_batch(recipe: Recipe, images: int, device: torch.device) -> Batch:
    """Black views of the recipe's groups and sizes, of the first sample ids, all of class 0: for passes that only
    settle or check something.

    For a method that needs them, with masks whose right half is of class 1, with views that are whole images, and with
    moments of two sequences in turns, every group showing another camera.
    """
    needs = method_class(recipe.method.name).needs
    views, masks, geometry, time = {}, {}, {}, {}
    for number, (name, group) in enumerate(recipe.views.items()):
        side = group.side(recipe.data.image_size)
        views[name] = torch.zeros(images, group.count, 3, side, side, dtype=torch.uint8, device=device)
        if "masks" in needs:
            masks[name] = torch.zeros(images, group.count, side, side, dtype=torch.uint8, device=device)
            masks[name][..., side // 2 :] = 1
        if "geometry" in needs:
            box = torch.tensor([0, 0, side, side], device=device)
            flip = torch.zeros(images, group.count, dtype=torch.bool, device=device)
            geometry[name] = ViewGeometry(box.repeat(images, group.count, 1), flip, box[2:].repeat(images, 1))
        if "time" in needs:
            row = torch.arange(images, device=device)
            time[name] = FrameTime(row % 2, 3 * (row // 2), torch.full_like(row, number))
    return Batch(
        views=views,
        samples=torch.arange(images),
        epoch=0,
        seed=recipe.seed,
        labels=torch.zeros(images, dtype=torch.int64, device=device),
        masks=masks,
        geometry=geometry,
        time=time,
    )
