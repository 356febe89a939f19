"""Fine-tuning with masks: the metric, what networks see of images, training on 1 and 2 processes, the command."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from simclr_dist.config.shards import Shards
from simclr_dist.data.sources.base import IGNORED
from simclr_dist.data.sources.summary import summary
from simclr_dist.evaluation.confusion import class_iou, confusion, mean_iou, pixel_accuracy, pixel_confusion
from simclr_dist.evaluation.protocol import SEGMENTATION
from simclr_dist.evaluation.saved_training import SavedTraining, TrainingStoppedError, Unfinished
from simclr_dist.evaluation.scaled_crops import CropRule, scaled_crop
from simclr_dist.evaluation.segmentation import segment
from simclr_dist.evaluation.segmentation_context import SegmentationContext
from simclr_dist.evaluation.subsets import first_with_masks
from simclr_dist.evaluation.supervised import pixel_cross_entropy
from simclr_dist.evaluation.whole_images import Sight, predicted
from simclr_dist.methods.build import build_encoder
from simclr_dist.models.segmentation import deeplab_v3
from simclr_dist.weights.digest import state_digest
from simclr_dist.weights.loaded import LoadedEncoder
from tests.support.commands import complaint
from tests.support.images import open_source
from tests.support.masked import Thresholded, own_threshold, write_folder
from tests.support.processes import run_distributed, tiny_config


def some_masks(classes=5, missing=3):
    """Masks and predictions, partly alike, in which one class is in neither, with ignored pixels."""
    random = np.random.default_rng(0)
    there = [number for number in range(classes) if number != missing]
    masks = random.choice(there, (4, 9, 11)).astype(np.uint8)
    found = np.where(random.random(masks.shape) < 0.6, masks, random.choice(there, masks.shape)).astype(np.uint8)
    masks[:, :2] = IGNORED
    return masks, found


# --- the metric


def test_iou_mean_and_pixel_accuracy_are_those_of_torchmetrics_with_a_class_that_is_in_neither():
    metrics = pytest.importorskip("torchmetrics.classification", reason="torchmetrics is not installed")
    masks, found = some_masks()
    counts = sum(pixel_confusion(mask, each, 5) for mask, each in zip(masks, found, strict=True))
    given = torch.from_numpy(found).long(), torch.from_numpy(masks).long()

    def theirs(metric, average):
        return metric(5, average=average, ignore_index=IGNORED)(*given).numpy()

    each = theirs(metrics.MulticlassJaccardIndex, "none")
    assert np.isnan(class_iou(counts)[3])
    np.testing.assert_allclose(np.delete(class_iou(counts), 3), np.delete(each, 3), rtol=1e-6)
    np.testing.assert_allclose(mean_iou(counts), theirs(metrics.MulticlassJaccardIndex, "macro"), rtol=1e-6)
    np.testing.assert_allclose(pixel_accuracy(counts), theirs(metrics.MulticlassAccuracy, "micro"), rtol=1e-6)


def test_ignored_pixels_count_nowhere_and_a_class_predicted_but_never_there_counts_as_0():
    mask = np.array([[0, 0, 1, IGNORED]], dtype=np.uint8)
    for at_ignored in (0, 1, 2):
        counts = pixel_confusion(mask, np.array([[0, 2, 1, at_ignored]]), 4)
        assert counts.sum() == 3
        np.testing.assert_array_equal(class_iou(counts), [0.5, 1.0, 0.0, np.nan])
        assert mean_iou(counts) == 0.5
    assert np.isnan(mean_iou(confusion(np.zeros(0, np.int64), np.zeros(0, np.int64), 2)))


# --- the loss and the rate


def test_the_loss_is_the_mean_over_the_pixels_that_count_and_0_where_none_does():
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 5, 6, requires_grad=True)
    masks = torch.randint(0, 4, (3, 5, 6), dtype=torch.uint8)
    masks[:, 1] = IGNORED
    loss = pixel_cross_entropy(logits, masks)
    torch.testing.assert_close(loss, F.cross_entropy(logits, masks.long(), ignore_index=IGNORED))
    nothing = pixel_cross_entropy(logits, torch.full_like(masks, IGNORED))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert not logits.grad.any()


def test_the_rate_falls_as_poly_and_the_optimizer_is_sgd_with_momentum_and_decay():
    schedule = SEGMENTATION.schedule(0.007, 100)
    torch.testing.assert_close([schedule(step) for step in (0, 37, 99)], [0.007, 0.007 * 0.63**0.9, 0.007 * 0.01**0.9])
    (group,) = SEGMENTATION.make_optimizer(nn.Linear(2, 2)).param_groups
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 1e-4, False)


# --- what a network sees


@pytest.mark.parametrize("drawn", [(0.9, 0.3, 0.6, 0.9), (0.5, 0.8, 0.1, 0.1), (0.0, 0.4, 0.4, 0.7)])
@pytest.mark.parametrize("short_side", [0, 64])
def test_crop_and_mask_stay_aligned_and_what_is_beside_the_image_is_ignored(drawn, short_side):
    rule = CropRule(side=48, short_side=short_side, ground=(9, 9, 9))
    image, mask = Thresholded(1, 37, 53).read_with_mask(0)
    crop, cut = scaled_crop(image, mask, rule, drawn)
    inside = cut[0] != IGNORED
    mixed = (crop[:2] > 64) & (crop[:2] < 192)  # an edge lies in the pixel
    beside = (crop == 9).all(0)
    np.testing.assert_array_equal(own_threshold(crop)[inside & ~mixed.any(0)], cut[0][inside & ~mixed.any(0)])
    assert inside.sum() > 300
    assert not (inside & beside).any()
    if drawn[0] == 0.0 and not short_side:
        assert (~inside).sum() > 1000


class FirstChannel(nn.Module):
    """Says class 1 where red is bright, and notes the sizes that it sees."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.sizes = []

    def forward(self, images):
        self.sizes.append(tuple(images.shape[-2:]))
        return torch.stack((images[:, 1].float(), images[:, 0].float() + 0.5), 1) * self.weight


def test_whole_images_are_asked_about_at_their_own_size_or_at_a_stated_one_and_answered_at_their_own():
    image, _ = Thresholded(1, 37, 53).read_with_mask(0)
    image[1] = 128
    network = FirstChannel().eval()
    for short_side in (0, 74):
        found = predicted(network, image, Sight(stride=16, short_side=short_side))
        np.testing.assert_array_equal(found, (image[0] >= 128).numpy())
    assert network.sizes == [(48, 64), (80, 112)]


# --- the method


def small_context(folder, unfinished=None, images=12, keys=()):
    recipe = tiny_config(folder, "recipe.data.image_size=16", *keys).recipe
    encoder = build_encoder(recipe).eval()
    loaded = LoadedEncoder(encoder=encoder, recipe=recipe, source="a test")
    if not (folder / "set").exists():  # files of another time would be other images
        write_folder(folder / "set", images, ["ground", "one", "two"])
    data = replace(recipe.data, source="folder_with_masks", path=str(folder / "set"))
    return SegmentationContext(loaded, Shards(), data, None, unfinished)


def found_here(folder):
    context = small_context(folder)
    result, sheet = segment(context, images=[4, None], steps=2, batch_images=4)
    return result.as_dict(), sheet


def test_a_result_repeats_to_the_digit_leaves_the_encoder_as_it_is_and_agrees_on_1_and_2_processes(tmp_path):
    before = state_digest([small_context(tmp_path).pretrained.encoder])
    context = small_context(tmp_path)
    alone, sheet = found_here(tmp_path)
    segment(context, images=[4], steps=2, batch_images=4)
    assert state_digest([context.pretrained.encoder]) == before
    two, other_sheet = run_distributed(2, found_here, tmp_path)[1]
    assert [row["images"] for row in alone["rows"]] == [4, 10]
    assert (alone["protocol"], alone["data"]) == (two["protocol"], two["data"])
    for one, other in zip(alone["rows"], two["rows"], strict=True):
        counted = np.array(one["confusion"])
        assert counted.sum() == np.array(other["confusion"]).sum() == 2 * 9 * 5  # without the ignored line
        np.testing.assert_allclose(counted, other["confusion"], atol=2)  # rounding may tip a pixel
    assert sheet.shape == other_sheet.shape


def test_both_halves_of_a_split_brain_have_the_stride_that_other_encoders_have(tmp_path):
    context = small_context(tmp_path, keys=["recipe.method.name=split_brain"])
    stride = context.output_stride(0)
    assert stride == small_context(tmp_path).output_stride(0) == 4
    encoder = deeplab_v3(context.pretrained.encoder, 3, output_stride=stride).encoder.eval()
    for takes, part in ((1, encoder.backbone.lightness), (2, encoder.backbone.color)):
        assert part.map(torch.zeros(1, takes, 16, 16)).shape[-2:] == (4, 4)


def test_subsets_are_those_of_labelled_images_and_nested(tmp_path):
    context = small_context(tmp_path)
    few, many = (first_with_masks(context.train, count)[0] for count in (3, 6))
    assert few.tolist() == many[:3].tolist()
    pretraining = open_source(replace(context.data, labelled_images=3))
    digest = first_with_masks(context.train, 3)[1]
    assert f"(set {digest[:12]})" in summary(pretraining, "")
    names = [context.train.name(int(number)) for number in few]
    assert sorted(names) == sorted(pretraining.name(sample) for sample in range(3))


def test_what_is_finished_is_not_trained_again_and_what_was_stopped_ends_with_the_same_numbers(tmp_path, monkeypatch):
    whole = segment(small_context(tmp_path), images=[4, 8], steps=3, batch_images=4)
    trained, after_step = [], SavedTraining.after_step

    def note_and_stop(self, state_of, step, total):
        trained.append((total, step))
        if len(trained) == 5:  # the second step of the second training
            os.kill(os.getpid(), signal.SIGTERM)
        after_step(self, state_of, step, total)

    monkeypatch.setattr(SavedTraining, "after_step", note_and_stop)
    with pytest.raises(TrainingStoppedError, match="stopped by SIGTERM after step 2 of 4"):
        segment(small_context(tmp_path, Unfinished(tmp_path / "u")), images=[4, 8], steps=3, batch_images=4)
    again = segment(small_context(tmp_path, Unfinished(tmp_path / "u")), images=[4, 8], steps=3, batch_images=4)
    assert trained == [(3, 1), (3, 2), (3, 3), (4, 1), (4, 2), (4, 3), (4, 4)]
    assert again.result.as_dict() == whole.result.as_dict()
    assert torch.equal(again.sheet, whole.sheet)


REFUSED = {
    "--on digits": "the images of 'digits' have no masks; name some with --on",
    "--images 4,x": "--images: '4,x' is not a list",
    "--images 99": "--images: 99, but 'folder_with_masks' has 10 training images",
    "--images 1": "--images: batch norm needs two images at least",
    "--output-stride 16": "--output-stride: 16 is none of 8, 4, 2",
    "--shares 1": "--shares: has no meaning for segment",
}


def test_what_cannot_be_evaluated_is_refused_in_one_line(run_dir, tmp_path, run):
    write_folder(tmp_path / "set", 12, ["ground", "one"])
    for words, said in REFUSED.items():
        on = [] if "--on" in words else ["--on", tmp_path / "set"]
        status, _, told = run("evaluate", run_dir, "segment", *on, *words.split())
        assert (status, said) == (2, said if said in complaint(told) else complaint(told))


def test_the_command_writes_numbers_and_a_picture_of_one_name_and_prints_a_table(run_dir, tmp_path, run):
    write_folder(tmp_path / "set", 12, ["ground", "one"])
    words = ["--on", tmp_path / "set", "--images", "4", "--steps", "2", "--with-baseline", "--seeds", "2"]
    status, out, _ = run("evaluate", run_dir, "segment", *words)
    assert status == 0
    path = Path(out.splitlines()[-1])
    content = json.loads(path.read_text())
    assert path.with_suffix(".png").exists()
    assert [row["name"] for row in content["rows"]] == ["segmentation, pretrained", "segmentation, from scratch"]
    assert f"{100 * content['rows'][0]['mean']:.2f}" in out
    assert len(content["rows"][1]["mean_iou"]) == 2
    assert not (run_dir / "unfinished").exists()
