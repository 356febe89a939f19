"""What ``evaluate RUN segment`` found: curves, classes, confusions, pictures."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from simclr_dist.data.rendering.masks import mask_colors
from simclr_dist.evaluation.results import deviation
from simclr_dist.reporting import Missing
from simclr_dist.reporting.charts import Series, legend, line_chart, matrix
from simclr_dist.reporting.facts import Facts
from simclr_dist.reporting.markup import Html, joined, tag
from simclr_dist.reporting.pictures import compact_uri
from simclr_dist.reporting.tables import rows

_MATRIX_CLASSES = 40
_PRETRAINED = "segmentation, pretrained"


def has_segmentation(run: Facts) -> bool:
    """Whether there is a result to show."""
    return any(content.get("method") == "segment" for _, content in run.evaluations)


def segmentation(run: Facts) -> Html:
    """Each result: mean IoU against images with masks, IoU of the classes, the confusion of the last row that was
    pretrained, and the picture that ``evaluate`` drew.

    Raises:
        Missing: a file is not of this form.
    """
    parts = []
    for name, content in run.evaluations:
        if content.get("method") == "segment":
            try:
                parts.append(_shown(run, name, content))
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise Missing(f"{name} is not of the form that evaluate writes; evaluate again.") from error
    return joined(*parts)


def in_words(run: Facts) -> str:
    """Mean IoU of the newest result, of the run's own images first, with the most masks, and that from scratch; ""
    where there is none."""
    results = [content for _, content in reversed(run.evaluations) if content.get("method") == "segment"]
    for content in sorted(results, key=run.own_first, reverse=True):
        try:
            masks = max(row["images"] for row in content["rows"])
            of = {row["name"]: f"{100 * row['mean']:.1f}" for row in content["rows"] if row["images"] == masks}
            text = f"mean IoU {of.pop(_PRETRAINED)} %{run.whose(content)} fine-tuned with {masks} masks"
        except (KeyError, TypeError, ValueError):
            continue
        return f"{text}, beside {', '.join(of.values())} from scratch" if of else text
    return ""


def _shown(run: Facts, file: str, content: dict[str, Any]) -> Html:
    found, names = content["rows"], [str(name) for name in content["class_names"]]
    series = [
        Series(name, [(row["images"], 100 * row["mean"]) for row in found if row["name"] == name], number)
        for number, name in enumerate(dict.fromkeys(str(row["name"]) for row in found))
    ]
    steps = content["steps_done"]
    title = f"Mean IoU of whole test images after {steps} steps of pretraining{run.whose(content)} ({file})"
    curve = line_chart(title, series, unit="%", x_name="images with masks", log_x=True)
    last = [row for row in found if row["name"] == _PRETRAINED][-1:] or found[-1:]
    figures = tag("div", curve, class_="cards")
    return joined(figures, _classes(found, names), _confusion(last[0], names), _picture(run, file, names))


def _classes(found: list[dict[str, Any]], names: list[str]) -> Html:
    body = []
    for row in found:
        values = [
            [seed[number] for seed in row["class_iou"] if seed[number] is not None] for number in range(len(names))
        ]
        cells = [f"{100 * np.mean(each):.1f}" if each else "-" for each in values]
        spread = f" ± {100 * deviation(row['mean_iou']):.1f}" if len(row["mean_iou"]) > 1 else ""
        body.append([f"{row['name']}, {row['images']} images", f"{100 * row['mean']:.1f}{spread}", *cells])
    seeds = max(len(row["mean_iou"]) for row in found)
    said = f"± is the standard deviation over {seeds} trainings." if seeds > 1 else ""
    return joined(rows(["IoU, %", "mean", *names], body, numeric=True), tag("p", said, class_="soft") if said else None)


def _confusion(row: dict[str, Any], names: list[str]) -> Html:
    counts = np.array(row["confusion"], dtype=np.int64).reshape(len(names), len(names))
    text = f"Pixels of {row['name']}, {row['images']} images. Rows: the class; columns: what it was taken for."
    if len(names) > _MATRIX_CLASSES:
        return tag("p", f"{len(names)} classes are too many for a matrix; the file has it.", class_="soft")
    return joined(tag("p", text, class_="soft"), matrix(counts, names))


def _picture(run: Facts, file: str, names: list[str]) -> Html:
    path = (run.path / file).with_suffix(".png")
    try:
        with Image.open(path) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except OSError:
        return tag("p", f"The picture {path.name} is not here; evaluate again to have it.", class_="missing")
    text = "Some test images, their masks, and what each network made of them (first seed; nearly white: ignored)"
    # In its own size where it fits; a page of many networks shows all of them.
    shown = tag("img", src=compact_uri(pixels), alt=text, style="max-width:100%")
    colors = [f"rgb({red} {green} {blue})" for red, green, blue in mask_colors()[: len(names)].tolist()]
    keys = legend([(name, color, False) for name, color in zip(names, colors, strict=True)])
    return tag("figure", tag("figcaption", text), shown, keys)
