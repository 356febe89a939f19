"""What `evaluate RUN segment` found, in a report."""

import json

import numpy as np
import torch

from simclr_dist.evaluation.mask_pictures import contact_sheet, samples_shown, write_png
from simclr_dist.evaluation.segmentation_results import SegmentationResult, SegmentationRow
from simclr_dist.reporting.facts import read_facts
from simclr_dist.reporting.page import page
from simclr_dist.reporting.segmentation import in_words, segmentation
from tests.support.masked import CLASSES, Thresholded

COUNTS = np.array([[90, 10, 0, 0], [0, 50, 0, 0], [0, 0, 0, 0], [0, 0, 0, 7]])


def written(folder):
    rows = [
        SegmentationRow.of(
            [COUNTS, COUNTS.T], name=f"segmentation, {start}", images=images, subset_sha256="", details={"gain": 0.25}
        )
        for images in (16, 64)
        for start in ("pretrained", "from scratch")
    ]
    result = SegmentationResult(
        method="segment",
        steps_done=3,
        encoder_sha256="a",
        data={},
        own_images=True,
        protocol={},
        class_names=CLASSES,
        rows=tuple(rows),
    )
    return result, result.write(folder)


def test_a_report_has_the_curve_the_classes_the_confusion_and_the_picture_of_a_segmentation(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    result, path = written(tmp_path)
    facts = read_facts(tmp_path, "run")
    assert "is not here" in segmentation(facts)
    source = Thresholded(3)
    masks = [source.read_with_mask(sample)[1] for sample in range(3)]
    sheet = contact_sheet(source, samples_shown(3), {"pretrained, 16": masks})
    write_png(path.with_suffix(".png"), sheet)
    content = page([facts], 4)
    assert 'id="run1-segmentation"' in content
    mean = (0.9 + 50 / 60 + 1) / 3
    assert f"{100 * mean:.1f}" in content
    assert "both taken for both: 14 (100.0 %)" in content
    assert "neither taken for right: 10 (5.3 %)" in content
    assert content.count("data:image/") >= 1
    assert f"Mean IoU {100 * mean:.1f} % fine-tuned with 64 masks, beside {100 * mean:.1f} from scratch; " in content
    assert "rgb(128 0 0)" in content  # class 1 in the picture
    assert " ± 0.0" in content
    assert f"{100 * mean:.2f}" in result.table()
    assert "+25.00" in result.table()
    path.write_text(json.dumps({"method": "segment", "rows": [{}]}))
    assert "evaluate again" in page([read_facts(tmp_path, "run")], 4)


def test_a_contact_sheet_has_image_mask_and_prediction_side_by_side():
    source = Thresholded(2, 40, 80)
    mask = source.read_with_mask(1)[1]
    sheet = contact_sheet(source, [1], {"one": [torch.zeros_like(mask)]})
    step = sheet.shape[2] // 3
    tiles = [sheet[:, 20:80, column * step : column * step + 150] for column in range(3)]
    assert not tiles[2].any()  # class 0 is black
    assert set(tiles[0].unique().tolist()) >= {0, 255}
    assert len(tiles[1].flatten(1).unique(dim=1).T) == len(mask.unique())


def test_the_first_line_of_a_report_has_the_mean_iou_of_the_runs_own_images_first(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    _, path = written(tmp_path)
    other = json.loads(path.read_text()) | {"own_images": False}
    for row in other["rows"]:
        row["mean"] = 0.125
    later = path.with_name(path.name.replace("000000003", "000000009"))
    later.write_text(json.dumps(other))
    assert in_words(read_facts(tmp_path, "run")).startswith("mean IoU 91.1 % fine-tuned with 64 masks")
    path.unlink()
    assert in_words(read_facts(tmp_path, "run")).startswith("mean IoU 12.5 % of images that are not the run's own")
