"""What the encoder makes of images: numbers of its features, confusions, neighbours, the map, kernels, views."""

import numpy as np
import torch

from simclr_dist.config.registry import method_class
from simclr_dist.data.preview import contact_sheet
from simclr_dist.data.rendering.torchvision_ import render_plain
from simclr_dist.data.sources.base import BrokenImageError
from simclr_dist.errors import UserError
from simclr_dist.evaluation.confusion import confusion
from simclr_dist.evaluation.subsets import Labels
from simclr_dist.reporting import Missing
from simclr_dist.reporting.analysis import alignment, feature_map, uniformity, vote
from simclr_dist.reporting.charts import legend, matrix, scatter
from simclr_dist.reporting.context import ReportContext
from simclr_dist.reporting.markup import Html, joined, or_sentence, tag
from simclr_dist.reporting.pictures import compact_uri, feature_maps, first_convolution, first_kernels, grid, sprite
from simclr_dist.reporting.tables import rows

KERNELS = 64
_SHOWN_NEIGHBOURS, _SAMPLES = 8, 12
_MATRIX_CLASSES = 40
_LEGEND_CLASSES = 20


def sphere(context: ReportContext) -> Html:
    """Alignment and uniformity of view pairs, beside the untrained encoder."""
    if len(context.shown) < 2:
        raise Missing("Alignment and uniformity need two images at least.")
    body = []
    for name, encoder in (("pretrained", context.encoder), ("untrained", context.untrained)):
        first, second = context.view_pairs(encoder)
        body.append([name, f"{alignment(first, second):.3f}", f"{uniformity(first):.3f}"])
    text = (
        "Of the encoder's features on the unit sphere, for pairs of views of the images shown (Wang and Isola 2020, "
        "alpha = 2, t = 2). Lower is better for both: views of one image lie close together, images spread out."
    )
    return joined(tag("p", text, class_="soft"), rows(["encoder", "alignment", "uniformity"], body, numeric=True))


def confusions(context: ReportContext) -> Html:
    """Which classes weighted nearest neighbours take for which."""
    labels, bank = _labels(context)
    names = class_names(context)
    counts = confusion(labels, vote(context.neighbours, bank, len(names)), len(names))
    right = counts.trace() / counts.sum()
    text = (
        f"{100 * right:.1f} % right: the {context.neighbours.indices.shape[1]} nearest of {len(bank)} labelled images "
        "vote (cosine, temperature 0.1). Rows: the class; columns: what it was taken for."
    )
    if len(names) <= _MATRIX_CLASSES:
        return joined(tag("p", text, class_="soft"), matrix(counts, names))
    off = counts * (1 - np.eye(len(names), dtype=np.int64))
    worst = [divmod(int(cell), len(names)) for cell in np.argsort(-off, axis=None, kind="stable")[:20]]
    body = [[names[a], names[b], str(off[a, b])] for a, b in worst if off[a, b]]
    said = tag("p", f"{len(names)} classes are too many for a matrix; the most frequent mistakes:", class_="soft")
    return joined(tag("p", text, class_="soft"), said, rows(["class", "taken for", "images"], body))


def neighbour_rows(context: ReportContext) -> Html:
    """Some images and their nearest neighbours; with labels, right ones are framed green and wrong ones red."""
    labelled = context.shown.labels is not None and context.bank.labels is not None
    names = class_names(context)
    lines, near = [], context.neighbours
    for sample in _samples(context):
        own = int(context.shown.labels[sample]) if context.shown.labels is not None else None
        tiles = [_tile(context, sample, names[own] if own is not None else "", "query", of_bank=False)]
        for index, similarity in zip(near.indices[sample][:_SHOWN_NEIGHBOURS], near.similarities[sample], strict=False):
            kind, name = "", ""
            if labelled:
                other = int(context.bank.labels[index])  # type: ignore[index]
                kind, name = "right" if other == own else "wrong", f"{names[other]} "
            tiles.append(_tile(context, int(index), f"{name}{similarity:.2f}", kind, of_bank=True))
        lines.append(tag("div", tag("div", tiles, class_="tiles"), class_="scroll"))
    said = "The image on the left, its nearest neighbours from near to far, and their cosine similarities."
    return joined(tag("p", said, class_="soft"), tag("div", lines, class_="neighbours"))


def map_of(context: ReportContext, key: str) -> Html:
    """PCA, then t-SNE, one colour a class; the pictures come up under the pointer."""
    positions = feature_map(context.features)
    names, labels = class_names(context), context.shown.labels
    colors = [_color(n, len(names)) for n in range(len(names))]
    own = labels.tolist() if labels is not None else [0] * len(positions)
    picture, columns = sprite(context.shown.thumbnails)
    hidden = tag("img", id=f"{key}-sprite", src=compact_uri(picture), data_columns=columns, alt="", hidden="hidden")
    parts = [
        scatter(
            positions, [names[n] if labels is not None else "" for n in own], [colors[n] for n in own], f"{key}-sprite"
        )
    ]
    if labels is None:
        parts.append(tag("p", "The images have no labels, so all have one colour.", class_="soft"))
    else:
        parts.append(
            legend([(name, color, False) for name, color in list(zip(names, colors, strict=True))[:_LEGEND_CLASSES]])
        )
        if len(names) > _LEGEND_CLASSES:
            parts.append(tag("p", f"and {len(names) - _LEGEND_CLASSES} more classes", class_="soft"))
    return joined(hidden, tag("figure", tag("figcaption", "Point at an image to see it."), parts))


def kernels(context: ReportContext) -> Html:
    """The first layer, and what each stage makes of one image; of encoders that have them."""
    first, stages = or_sentence(lambda: _first_layer(context)), or_sentence(lambda: _stages(context))
    return tag("div", tag("figure", first), tag("figure", stages), class_="halves")


def _first_layer(context: ReportContext) -> Html:
    shape = first_convolution(context.encoder).weight.shape
    text = f"{min(shape[0], KERNELS)} of {shape[0]} first-layer kernels, {shape[2]} x {shape[3]} pixels"
    return joined(tag("figcaption", text), _pixels(picture_of_kernels(context), text, 320 if shape[0] <= 16 else 480))


def _stages(context: ReportContext) -> Html:
    image = small_image(context)
    maps_of = feature_maps(context.encoder, image)
    parts = [tag("figcaption", "The image that the feature maps are of"), _pixels(image, "the image", 96)]
    for name, maps in maps_of:
        text = f"{name}, {maps.shape[-2]} x {maps.shape[-1]}: the channels that vary most"
        parts += [tag("figcaption", text), _pixels(grid(_enlarged(maps), 6), text, 420)]
    return joined(parts)


def picture_of_kernels(context: ReportContext) -> torch.Tensor:
    """The kernels of the first layer, side by side."""
    pictures = first_kernels(context.encoder, KERNELS)
    return grid(pictures, 8 if len(pictures) <= 16 else 16)


def view_pairs(context: ReportContext) -> Html:
    """Images of pretraining and their views."""
    shown = method_class(context.recipe.method.name).PICTURES or "its views"
    text = f"Each row an image and, in each of the first three epochs, {shown}"
    return tag("figure", tag("figcaption", text), _pixels(picture_of_views(context), text, 560))


def picture_of_views(context: ReportContext) -> torch.Tensor:
    """The contact sheet of a few images of pretraining."""
    try:
        return contact_sheet(context.pretraining, context.recipe, min(6, len(context.pretraining)))
    except BrokenImageError as error:
        raise UserError(f"the report needs every image it shows, and one is broken: {error}") from error


def class_names(context: ReportContext) -> list[str]:
    """A name for every label that occurs; one empty name without labels."""
    known = [str(name) for name in context.shown.classes]
    labels = [source.labels for source in (context.shown, context.bank) if source.labels is not None]
    most = max([len(known), 1, *(int(each.max()) + 1 for each in labels if len(each))])
    return [*known, *(str(number) for number in range(len(known), most))]


def small_image(context: ReportContext) -> torch.Tensor:
    """The first image shown, as the encoder sees it."""
    return render_plain(context.shown.read(0), context.recipe.data.image_size)


def _labels(context: ReportContext) -> tuple[Labels, Labels]:
    if context.shown.labels is None or context.bank.labels is None:
        raise Missing("The images have no labels, so there is no confusion matrix.")
    return context.shown.labels, context.bank.labels


def _samples(context: ReportContext) -> list[int]:
    """Images to show: of every class in turn."""
    labels = context.shown.labels
    if labels is None:
        return [int(n) for n in np.unique(np.linspace(0, len(context.shown) - 1, _SAMPLES).astype(np.int64))]
    turn = np.zeros(len(labels), dtype=np.int64)
    for number in np.unique(labels):
        turn[labels == number] = np.arange((labels == number).sum())
    return [int(n) for n in np.lexsort((labels, turn))[:_SAMPLES]]


def _tile(context: ReportContext, sample: int, text: str, kind: str, *, of_bank: bool) -> Html:
    picture = compact_uri(context.thumbnail(sample, of_bank=of_bank))
    return tag("div", tag("img", src=picture, alt=text, loading="lazy"), text, class_=f"tile {kind}".strip())


def _color(number: int, classes: int) -> str:
    return f"var(--c{number})" if classes <= 10 else f"hsl({360 * number / classes:.0f} 60% 52%)"


def _enlarged(tiles: torch.Tensor, side: int = 64) -> torch.Tensor:
    """By a whole factor, so that the lines between small tiles stay thin."""
    return tiles.repeat_interleave(max(1, side // tiles.shape[-1]), -1).repeat_interleave(
        max(1, side // tiles.shape[-2]), -2
    )


def _pixels(picture: torch.Tensor, text: str, width: int) -> Html:
    return tag("img", src=compact_uri(picture), alt=text, class_="pixels", style=f"width:{width}px")
