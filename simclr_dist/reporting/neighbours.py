"""The page of ``simclr-dist neighbours``: each query with what the encoder finds and what raw pixels find."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from simclr_dist.data.rendering.torchvision_ import render_plain
from simclr_dist.evaluation.similar import PIXELS_SIDE, Query, Similar, duplicates
from simclr_dist.reporting.document import Section, document
from simclr_dist.reporting.markup import Html, joined, tag
from simclr_dist.reporting.pictures import compact_uri
from simclr_dist.reporting.tables import rows
from simclr_dist.terminal import printable

THUMBNAIL, QUERY = 104, 180
"""Pixels at most; as wide as page.css shows them."""


class Searched(NamedTuple):
    """A way to find similar images, and what it found for each query."""

    title: str
    found: Sequence[Similar]


class Pictures(NamedTuple):
    """The images that are searched."""

    name: Callable[[int], str]
    read: Callable[[int], Tensor]
    """uint8 (3, height, width)."""


def neighbours_page(
    title: str, facts: Sequence[tuple[str, str]], pictures: Pictures, queries: Sequence[Query], ways: Sequence[Searched]
) -> Html:
    """The whole page; ``facts`` stand in a table on top."""
    said = (
        "From near to far, with cosine similarities. Of each image the central square is shown, which is what the "
        "encoder sees. A blue frame: found both ways."
    )
    baseline = (
        f"Raw pixels: scaled to {PIXELS_SIDE} x {PIXELS_SIDE}, less their mean over all images, without which the "
        "cosines of pixels are all near one. The similarities of the two ways are not to be compared."
    )
    header = [rows(["", ""], facts), tag("p", said, class_="soft")]
    header += [tag("p", baseline, class_="soft")] if len(ways) > 1 else []
    sections = [
        Section(
            f"query{number}",
            printable(query.name),
            _section(pictures, query, [way.found[number] for way in ways], ways),
        )
        for number, query in enumerate(queries)
    ]
    return document("neighbours", title, header, sections)


def _section(pictures: Pictures, query: Query, found: Sequence[Similar], ways: Sequence[Searched]) -> Html:
    shown = {int(sample): pictures.read(int(sample)) for each in found for sample in each.samples}
    both = set.intersection(*(set(each.samples.tolist()) for each in found)) if len(found) > 1 else set()
    height, width = query.pixels.shape[1:]
    where = "one of the images, not shown among its own neighbours" if query.sample is not None else "not of the images"
    text = f"{width} x {height} pixels; {where}"
    if len(found) > 1:
        text += f"; {len(both)} of {len(found[0].samples)} are found both ways"
    parts = []
    for way, similar in zip(ways, found, strict=True):
        same = list(duplicates([query.pixels, *(shown[int(sample)] for sample in similar.samples)]))[1:]
        names = [query.name, *(pictures.name(int(sample)) for sample in similar.samples)]
        tiles = []
        for rank, (sample, similarity) in enumerate(zip(similar.samples.tolist(), similar.similarities, strict=True)):
            earlier = same[rank]
            note = None if earlier is None else "same pixels as " + ("the query" if not earlier else names[earlier])
            tiles.append(
                _tile(shown[sample], names[rank + 1], f"{rank + 1}: {similarity:.3f}", note, is_both=sample in both)
            )
        copies = sum(earlier is not None for earlier in same)
        caption = f"{way.title}" + (f"; exact duplicates among them: {copies}" if copies else "")
        parts.append(tag("figure", tag("figcaption", caption), tag("div", tiles, class_="found")))
    picture = tag("div", tag("img", src=_thumbnail(query.pixels, QUERY), alt="the query"), class_="tile wide query")
    return joined(tag("p", text, class_="soft"), picture, tag("div", parts, class_="halves"))


def _tile(pixels: Tensor, name: str, text: str, note: str | None, *, is_both: bool) -> Html:
    shown = printable(name)
    parts = [
        tag("img", src=_thumbnail(pixels), alt=shown, title=shown, loading="lazy"),
        tag("b", text),
        tag("br"),
        shown,
    ]
    if note is not None:
        parts += [tag("br"), tag("b", printable(note), class_="copy")]
    return tag("div", parts, class_="tile wide both" if is_both else "tile wide")


def _thumbnail(pixels: Tensor, most: int = THUMBNAIL) -> str:
    """The central square, no larger than it is."""
    return compact_uri(render_plain(pixels, min(*pixels.shape[1:], most)))
