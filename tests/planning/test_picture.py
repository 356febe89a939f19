"""The plan's picture: what it shows is told in its legend, and nothing lies over the points."""

from types import SimpleNamespace

from matplotlib import pyplot

from simclr_dist.planning.memory import Variant
from simclr_dist.planning.picture import _draw_memory


def test_each_way_that_fits_has_a_marker_and_a_line_of_the_legend_and_no_words_lie_on_the_points():
    blocks, everything = Variant("blocks"), Variant("all")
    ways = [
        (1, everything, False),
        (2, everything, True),
        (4, blocks, True),
        (8, Variant(), True),
        (16, Variant(), True),
    ]
    rows = [
        SimpleNamespace(gpus=gpus, images=64 // gpus, variant=variant, peak_bytes=64e9 / gpus, fits=fits)
        for gpus, variant, fits in ways
    ]
    memory = SimpleNamespace(peak_bytes=lambda images, _: 1e9 * images)
    figure, axis = pyplot.subplots()
    _draw_memory(axis, SimpleNamespace(rows=rows, memory=memory, usable_bytes=72e9))
    points = {line.get_label(): line for line in axis.lines if line.get_linestyle() == "None"}
    assert {label: list(line.get_xdata()) for label, line in points.items()} == {
        "fits": [8, 16], "fits, recompute=all": [2], "fits, recompute=blocks": [4], "does not fit": [1],
    }  # fmt: skip
    assert len({line.get_marker() for line in points.values()}) == 4
    assert points.keys() <= {text.get_text() for text in axis.get_legend().get_texts()}
    assert list(axis.texts) == []
    pyplot.close(figure)
