"""Frames: what the names of files say of time, which frame is whose partner, and what a batch is told of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simclr_dist.config import Config
from simclr_dist.config.recipe import Data, Recipe
from simclr_dist.config.views import ViewGroup
from simclr_dist.data.loading.batches import ViewBatches
from simclr_dist.data.loading.order import build_order
from simclr_dist.data.preview import contact_sheet
from simclr_dist.data.preview_frames import far_frames
from simclr_dist.data.sources.base import BrokenImageError, Subset
from simclr_dist.data.sources.named import open_for_pretraining
from simclr_dist.data.sources.outside import CheckedSource
from simclr_dist.data.sources.times import FrameTimes, frames_of_group
from simclr_dist.errors import UserError
from tests.support.images import opened
from tests.support.timed_digits import TimedDigits, open_source

DISTANCE = 3
GROUPS = {
    "anchor": ViewGroup(count=1),
    "partner": ViewGroup(count=1, frame="near", frame_distance=DISTANCE),
}


def write_frame(folder: Path, name: str, grey: int = 0) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 10, 3), grey, np.uint8)).save(folder / name)


def places(folder: Path, split: str = "pretrain") -> dict[str, tuple[int, int, int]]:
    source = opened("frames", folder, split)
    columns = np.stack((source.times.sequence, source.times.frame, source.times.camera), axis=1).tolist()
    return {source.name(sample): tuple(columns[sample]) for sample in range(len(source))}


def test_the_last_digits_of_a_name_are_its_number_and_all_else_its_sequence(tmp_path):
    for name in ("b/image.10.pgm", "b/image.9.pgm", "a2/x7_0003.png", "a2/x8_0003.png", "left01.png", "right01.png"):
        write_frame(tmp_path, name)
    found = places(tmp_path)
    assert found == {
        "left01.png": (0, 1, 0), "right01.png": (1, 1, 0), "a2/x7_0003.png": (2, 3, 0), "a2/x8_0003.png": (3, 3, 0),
        "b/image.9.pgm": (4, 9, 0), "b/image.10.pgm": (4, 10, 0),
    }  # fmt: skip
    assert list(found)[-2:] == ["b/image.9.pgm", "b/image.10.pgm"]  # by number, not by name


@pytest.mark.parametrize(
    ("first", "second"), [("pour_view0", "pour_view1"), ("pour cam0", "pour-Camera_1"), ("pour/view0", "pour/view1")]
)
def test_folders_of_cameras_are_one_sequence(tmp_path, first, second):
    for folder in (first, second, "preview3"):
        write_frame(tmp_path, f"{folder}/frame5.png")
    found = places(tmp_path)
    assert found[f"{first}/frame5.png"] == (found[f"{second}/frame5.png"][0], 5, 0)
    assert found[f"{second}/frame5.png"][2] == 1
    assert found["preview3/frame5.png"][2] == 0
    assert "2 sequences, 1 of several cameras" in opened("frames", tmp_path).remarks


def test_files_without_a_number_are_left_out_and_said(tmp_path):
    write_frame(tmp_path, "a/1.png")
    write_frame(tmp_path, "a/cover.png")
    source = opened("frames", tmp_path)
    assert len(source) == 1
    assert "a/cover.png: without a number in the name" in source.remarks[-1]


def test_two_files_of_one_moment_are_refused(tmp_path):
    write_frame(tmp_path, "a/1.png")
    write_frame(tmp_path, "a/01.png")
    with pytest.raises(UserError, match=r"are both frame 1 of one sequence and camera; move one"):
        opened("frames", tmp_path)


def test_a_held_out_folder_is_the_test_split_and_without_one_there_is_none(tmp_path):
    write_frame(tmp_path, "train/a/1.png")
    with pytest.raises(UserError, match="put some sequences into a folder test/"):
        opened("frames", tmp_path, "test")
    write_frame(tmp_path, "test/b/1.png")
    assert list(places(tmp_path)) == ["a/1.png"]
    assert list(places(tmp_path, "test")) == ["b/1.png"]


# ---------------------------------------------------------------------------------------------- partners


def random_times(images: int = 200) -> FrameTimes:
    """Numbers with gaps, moments of several cameras, in no order."""
    drawn = np.random.default_rng(0).integers(0, (4, 60, 3), (4 * images, 3))
    places = np.unique(drawn, axis=0)[:images]
    return FrameTimes(*np.random.default_rng(1).permutation(places).astype(np.int64).T)


@pytest.mark.parametrize(("kind", "distance"), [("near", 1), ("near", 7), ("camera", 0), ("camera", 5)])
def test_candidates_are_all_frames_within_the_distance_and_no_others(kind, distance):
    times = random_times()
    every = np.arange(len(times.frame))
    for sample in every:
        near = (times.sequence == times.sequence[sample]) & (abs(times.frame - times.frame[sample]) <= distance)
        same = times.camera == times.camera[sample]
        expected = every[near & (same & (every != sample) if kind == "near" else ~same)]
        assert sorted(times.candidates(int(sample), kind, distance)) == expected.tolist()


def test_every_candidate_is_drawn_alike_often_and_a_lonely_frame_is_its_own_partner():
    times = FrameTimes(*np.array([[0, 0, 0, 0, 1], [1, 2, 3, 9, 2], [0] * 5]).astype(np.int64))
    drawn = (np.arange(300) + 0.5) / 300
    found = times.partners(np.full(300, 1), "near", 1, drawn)
    assert np.bincount(found, minlength=5).tolist() == [150, 0, 150, 0, 0]
    assert times.partners(np.array([3, 4]), "near", 1, np.array([0.3, 0.9])).tolist() == [3, 4]


def test_partners_change_from_epoch_to_epoch_and_depend_on_seed_and_sample_alone():
    source, samples = open_source(Data(source="digits"), "pretrain"), np.arange(100, 160)
    recipe = Recipe(views=GROUPS, seed=5)
    first, second = (frames_of_group(source, recipe, "partner", epoch, samples) for epoch in (0, 1))
    assert (first != second).mean() > 0.5
    assert np.array_equal(frames_of_group(source, recipe, "partner", 0, samples[20:]), first[20:])
    assert np.array_equal(frames_of_group(source, recipe, "anchor", 0, samples), samples)
    other = frames_of_group(source, replace(recipe, seed=6), "partner", 0, samples)
    assert (first != other).mean() > 0.5


# ---------------------------------------------------------------------------------------------- batches


def batches(source: TimedDigits, processes: int = 1, rank: int = 0) -> ViewBatches:
    views = {
        name: replace(group, crop_area_min=1.0, flip_probability=0, color_probability=0, grayscale_probability=0,
                      blur_probability=0)
        for name, group in GROUPS.items()
    }  # fmt: skip
    recipe = Recipe(global_batch_images=64, views=views, data=Data(source="digits", image_size=8))
    return ViewBatches(source, recipe, build_order(recipe, len(source)), rank, processes, time=True)


def test_each_group_shows_the_frames_whose_time_the_batch_tells_whatever_the_processes():
    source = open_source(Data(source="digits"), "pretrain")
    whole = batches(source)[3]
    shares = [batches(source, 2, rank)[3] for rank in (0, 1)]
    anchor, partner = whole.time["anchor"], whole.time["partner"]
    assert torch.equal(anchor.sequence, partner.sequence)
    apart = (anchor.frame - partner.frame).abs()
    assert (apart.min(), apart.max()) == (1, DISTANCE)
    for name, time in whole.time.items():
        assert torch.equal(torch.cat([share.views[name] for share in shares]), whole.views[name])
        assert torch.equal(torch.cat([share.time[name].frame for share in shares]), time.frame)
        place = {pair: sample for sample, pair in enumerate(zip(*map(np.ndarray.tolist, source.pair), strict=True))}
        samples = [place[pair] for pair in zip(time.sequence.tolist(), time.frame.tolist(), strict=True)]
        assert all(
            torch.equal(view[0], source.read(sample)) for view, sample in zip(whole.views[name], samples, strict=True)
        )


def test_time_goes_along_with_chunks_devices_and_pinned_memory():
    whole = batches(open_source(Data(source="digits"), "pretrain"))[0]
    parts = whole.split(24)
    assert torch.equal(torch.cat([part.time["partner"].frame for part in parts]), whole.time["partner"].frame)
    assert {tensor.device.type for tensor in whole.copied_to(torch.device("meta")).device_tensors} == {"meta"}
    assert sum(tensor is whole.time["partner"].frame for tensor in whole.device_tensors) == 1


def test_a_broken_partner_is_replaced_and_the_batch_tells_the_time_of_what_it_shows(tmp_path):
    for number in range(1, 3):
        write_frame(tmp_path, f"a/{number}.png", 40 * number)
    write_frame(tmp_path, "b/7.png", 200)
    (tmp_path / "a/2.png").write_bytes(b"\x89PNG no more")
    recipe = replace(batches(open_source(Data(source="digits"), "pretrain")).recipe, global_batch_images=3)
    source = opened("frames", tmp_path)
    batch = ViewBatches(source, recipe, build_order(recipe, 3), time=True)[0]
    assert batch.broken
    grey = {(0, 1): 40, (1, 7): 200}
    for name, time in batch.time.items():
        shown = [grey[pair] for pair in zip(time.sequence.tolist(), time.frame.tolist(), strict=True)]
        assert batch.views[name][:, 0, 0, 0, 0].tolist() == shown


def test_in_the_place_of_a_broken_partner_the_frame_meets_itself_and_no_frame_that_is_far(tmp_path):
    for number in range(4):
        write_frame(tmp_path, f"a/{number}.png", 40)
        write_frame(tmp_path, f"b/{number}.png", 200)
    recipe = replace(batches(open_source(Data(source="digits"), "pretrain")).recipe, global_batch_images=8)
    source = opened("frames", tmp_path)
    for sample in (1, 2, 3, 5, 6, 7):
        (tmp_path / source.name(sample)).write_bytes(b"\x89PNG no more")
    views = ViewBatches(source, recipe, build_order(recipe, 8), time=True)
    for epoch in range(4):
        batch = views[epoch]
        anchor, partner = (batch.time[name] for name in ("anchor", "partner"))
        assert torch.equal(anchor.sequence, partner.sequence)
        assert torch.equal(anchor.frame, partner.frame)
        assert torch.equal(batch.views["anchor"][..., 0, 0], batch.views["partner"][..., 0, 0])
        partners = set(frames_of_group(source, recipe, "partner", epoch, batch.samples.numpy()).tolist())
        assert partners <= {sample for sample, _ in batch.broken}


def test_a_part_of_a_source_and_a_source_of_the_users_own_keep_their_times():
    source = open_source(Data(source="digits"), "pretrain")
    indices = np.array([70, 3, 50])
    assert np.array_equal(Subset(source, indices).times.frame, source.times.frame[indices])
    assert CheckedSource(source, "x:y").times is source.times
    source.times = replace(source.times, frame=source.times.frame[:-1])
    with pytest.raises(UserError, match=r"times\.frame must be a numpy array of int64 with a number for each image"):
        CheckedSource(source, "x:y")


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("source", "group", "said"),
    [
        ("digits", ViewGroup(frame="near", frame_distance=2), r"frame: 'near' needs images of which it is known when"),
        ("frames", ViewGroup(frame="camera"), r"frame_distance: no frame has a partner \('camera'\) .*NAME_view0"),
        (
            "frames",
            ViewGroup(frame="near", frame_distance=4),
            r"no frame has a partner \('near'\) at most 4 .*raise it",
        ),
    ],
)
def test_images_without_partners_are_refused_at_the_start(tmp_path, source, group, said):
    for number in (1, 6):
        write_frame(tmp_path, f"{number}.png")
    recipe = Recipe(data=Data(source=source, path=str(tmp_path)), views={"global": group})
    with pytest.raises(UserError, match=said):
        open_for_pretraining(Config(recipe=recipe))


# ---------------------------------------------------------------------------------------------- pictures


def test_the_preview_shows_each_frame_with_its_partners_and_the_nearest_that_are_far():
    times = FrameTimes(*np.array([[0] * 9 + [1], [*range(9), 3], [0] * 10]).astype(np.int64))
    assert far_frames(times, 4, 2) == [1, 7, 9]
    assert far_frames(times, 1, 2) == [None, 4, 9]
    source = open_source(Data(source="digits"), "pretrain")
    recipe = Recipe(views=GROUPS, data=Data(image_size=70))
    sheet = contact_sheet(source, recipe, images=2, epochs=2)
    assert sheet.shape == (3, 2 * (70 + 13 + 2) + 2, (1 + 2 * 2 + 3) * 72 + 2)


def test_the_preview_of_frames_passes_broken_ones_over_and_says_so(tmp_path):
    for number in range(1, 6):
        write_frame(tmp_path, f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    source = opened("frames", tmp_path, "pretrain")
    recipe = Recipe(views={"global": ViewGroup(frame="near", frame_distance=1)}, data=Data(image_size=70))
    said: list[str] = []
    sheet = contact_sheet(source, recipe, images=5, epochs=2, passed_over=said.append)
    assert sheet.shape[1] == 4 * (70 + 13 + 2) + 2  # a row for each whole frame
    assert [line.partition(":")[0] for line in said] == ["2.png"]
    with pytest.raises(BrokenImageError):
        contact_sheet(source, recipe, images=5, epochs=2)
