"""Renderers by name: different ways to the same pixels."""

from typing import NamedTuple, Protocol

from torch import Tensor

from simclr_dist.data.rendering import numba_, torchvision_
from simclr_dist.data.views.draws import ViewParameters


class RenderView(Protocol):
    """One view of one image: :func:`simclr_dist.data.rendering.torchvision_.render_view`."""

    def __call__(
        self,
        image: Tensor,
        parameters: ViewParameters,
        row: int,
        image_size: int,
        color_form: str = "exact",
        interpolation: str = "bilinear",
        out: Tensor | None = None,
    ) -> Tensor: ...


class RenderCrop(Protocol):
    """Its crop, resized and flipped: :func:`simclr_dist.data.rendering.torchvision_.render_crop`."""

    def __call__(
        self,
        image: Tensor,
        parameters: ViewParameters,
        row: int,
        image_size: int,
        interpolation: str = "bilinear",
        out: Tensor | None = None,
    ) -> Tensor: ...


class Prepare(Protocol):
    """Make ready what the others need, by the example of a view."""

    def __call__(self, image: Tensor, parameters: ViewParameters, row: int, image_size: int) -> object: ...


class Renderer(NamedTuple):
    """What makes views on the CPU."""

    view: RenderView
    crop: RenderCrop
    prepare: Prepare


RENDERERS = {
    "numba": Renderer(numba_.render_view, numba_.render_crop, numba_.prepare),
    "torchvision": Renderer(torchvision_.render_view, torchvision_.render_crop, torchvision_.render_view),
}
