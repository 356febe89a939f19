"""Which files of a folder are images of the set, which of its folders are splits, and what is said of it."""

from pathlib import Path

import numpy as np
import pytest

from simclr_dist.config import load_config
from simclr_dist.config.recipe import Data
from simclr_dist.data.sources.folders import IMAGE_SUFFIXES, halves_by_name, is_foreign, splits_of
from simclr_dist.data.sources.named import open_for_pretraining, open_of_recipe
from simclr_dist.data.sources.summary import summary
from simclr_dist.errors import UserError
from tests.support.commands import run_command
from tests.support.images import encoded, open_source, opened, plain, write_image


def names(source) -> list[str]:
    return [source.name(sample) for sample in range(len(source))]


def fill(root: Path, *paths: str) -> Path:
    for path in paths:
        write_image(root / path)
    return root


FOREIGN = (
    ".ipynb_checkpoints", "@eaDir", "__MACOSX", ".snapshot", ".Trash-1000", ".AppleDouble", ".thumbnails", ".git",
    "#recycle", "#snapshot", "~snapshot", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__",
    "@Recycle", "@Recently-Snapshot", "RECYCLER", ".Spotlight-V100",
)  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("split", ["pretrain", "train"])
def test_hidden_and_system_folders_hold_no_images_and_are_no_class_at_any_depth(tmp_path, name, split):
    fill(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png", f"train/{name}/1.png", f"train/a/{name}/x/1.png")
    source = opened("folder", tmp_path, split)
    assert names(source) == ["a/1.png", "b/1.png"]
    assert source.classes == ["a", "b"]
    remark = source.remarks[-1]
    assert remark.startswith("left out: ")
    assert f"{name}/" in remark
    assert "hidden or a system's" in remark


def test_what_a_mac_puts_beside_each_file_is_no_image_and_a_hidden_place_of_the_set_hides_nothing(tmp_path):
    root = fill(tmp_path / ".cache" / "photos", "a/1.png", "b/1.png")
    (root / "a" / "._1.png").write_bytes(b"\0\5\26\7")
    source = opened("folder", root)
    assert names(source) == ["a/1.png", "b/1.png"]
    assert source.remarks == ("left out: a/._1.png: hidden or a system's",)


def test_names_that_only_begin_like_a_systems_are_images():
    assert not any(is_foreign(name) for name in ("a.png", "recycling", "snapshot", "tmp", "@home", "#1.png", "~me"))


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPE", ".jif", ".jfi", ".dib", ".pnm", ".pbm", ".apng"])
def test_other_suffixes_of_the_same_formats_are_read(tmp_path, suffix):
    fill(tmp_path, "a.png", f"b{suffix}")
    assert names(opened("folder", tmp_path)) == ["a.png", f"b{suffix}"]
    assert suffix.lower() in IMAGE_SUFFIXES


def test_files_of_other_kinds_are_counted_by_their_suffix(tmp_path):
    fill(tmp_path, "a/1.png")
    for number in range(3):
        (tmp_path / "a" / f"{number}.svg").write_text("<svg/>")
    (tmp_path / "README").write_text("x")
    remark = "left out: 3 .svg, 1 without suffix: no image's suffix"
    assert opened("folder", tmp_path).remarks == (remark,)


@pytest.mark.parametrize(
    "held_out",
    [
        "test", "testing", "Testing", "val", "valid", "validation", "VALID", "dev", "holdout", "held-out", "held_out",
        "Hold Out", "eval", "val2017", "test_images", "testset", "seg_test",
    ],
)  # fmt: skip
@pytest.mark.parametrize("train", ["train", "Training", ""])
def test_held_out_images_by_any_usual_name_are_never_pretrained_on(tmp_path, held_out, train):
    fill(tmp_path / train, "a/1.png", "b/1.png", "b/2.png")
    fill(tmp_path / held_out, "b/9.png")
    for split in ("pretrain", "train"):
        source = opened("folder", tmp_path, split)
        assert names(source) == ["a/1.png", "b/1.png", "b/2.png"]
        assert source.remarks == (f"held out: {held_out}/",)
    test = opened("folder", tmp_path, "test")
    assert names(test) == ["b/9.png"]
    assert test.classes == ["a", "b"]
    assert test.labels.tolist() == [1]


@pytest.mark.parametrize("name", ["tester", "validated", "devices", "trainers", "contest", "test tube", "evaluations"])
def test_a_class_that_only_begins_like_a_split_is_a_class(tmp_path, name):
    fill(tmp_path, "a/1.png", f"{name}/1.png")
    assert opened("folder", tmp_path).classes == sorted(["a", name])


def test_of_several_held_out_folders_test_comes_first_and_what_is_beside_the_splits_is_named(tmp_path):
    fill(tmp_path, "train/a/1.png", "test/a/2.png", "val/a/3.png", "extra/a/4.png")
    splits = splits_of(tmp_path)
    assert splits.held_out == tmp_path / "test"
    assert opened("folder", tmp_path).remarks == ("held out: test/", "left out: extra/, val/: beside the splits")
    assert names(opened("folder", tmp_path, "test")) == ["a/2.png"]


def test_two_folders_of_training_images_are_refused_and_a_plain_name_goes_before_one_with_more(tmp_path):
    fill(tmp_path, "train2014/a/1.png", "train2017/a/1.png")
    with pytest.raises(UserError, match="train2014 and train2017 may both be the training images"):
        splits_of(tmp_path)
    fill(tmp_path, "train/a/1.png")
    assert splits_of(tmp_path).train == tmp_path / "train"


def test_held_out_images_alone_are_not_pretrained_on(tmp_path):
    fill(tmp_path, "valid/a/1.png")
    with pytest.raises(UserError, match=r"no images in .* beside the held-out valid/"):
        opened("folder", tmp_path)


@pytest.mark.parametrize("root", ["", "train"])
def test_a_folder_without_splits_is_split_by_name_for_evaluation_the_same_wherever_it_lies(tmp_path, root):
    paths = [f"{name}/{number}.png" for name in "abc" for number in range(10)]
    halves = []
    for place in ("here", "there"):
        fill(tmp_path / place / root, *paths)
        train, test = (opened("folder", tmp_path / place, split) for split in ("train", "test"))
        halves.append((names(train), names(test)))
        assert np.bincount(train.labels).tolist() == [8, 8, 8]
        assert np.bincount(test.labels).tolist() == [2, 2, 2]
        assert train.remarks == test.remarks
        assert "one image of 5 of each class is a test image" in train.remarks[0]
    assert halves[0] == halves[1]
    assert sorted(halves[0][0] + halves[0][1]) == paths
    assert names(opened("folder", tmp_path / "here")) == paths  # pretraining needs no labels and takes all


@pytest.mark.parametrize(("method", "shown"), [("supcon", 8), ("label_augmentation", 8), ("simclr", 10)])
def test_a_method_that_is_shown_labels_pretrains_on_no_test_image_of_a_folder_without_splits(tmp_path, method, shown):
    root = fill(tmp_path / "photos", *(f"{name}/{number}.png" for name in "ab" for number in range(10)))
    data = ["recipe.data.source=folder", f"recipe.data.path={root}", f"recipe.method.name={method}"]
    config = load_config("digits_demo", data)
    train, test = (open_of_recipe(config.recipe, config.machine.shards, split) for split in ("train", "test"))
    pretraining = open_for_pretraining(config)
    assert np.bincount(pretraining.labels).tolist() == [shown, shown]
    assert (names(pretraining) == names(train)) == (not set(names(pretraining)) & set(names(test))) == (shown == 8)
    assert ("one image of 5 of each class is a test image" in summary(pretraining, "folder")) == (shown == 8)
    assert test.pretrained_on == (shown == 10)


def test_a_method_that_needs_labels_still_refuses_a_folder_without_them_and_takes_all_beside_a_held_out_one(tmp_path):
    fill(tmp_path / "flat", "1.png", "2.png")
    fill(tmp_path / "stray", "a/1.png", "b/1.png", "1.png")
    fill(tmp_path / "split", *(f"train/{name}/{number}.png" for name in "ab" for number in range(5)), "test/a/1.png")
    supcon = ["recipe.data.source=folder", "recipe.method.name=supcon"]
    for folder in ("flat", "stray"):
        with pytest.raises(UserError, match="supcon needs labels"):
            open_for_pretraining(load_config("digits_demo", [*supcon, f"recipe.data.path={tmp_path / folder}"]))
    assert (
        len(open_for_pretraining(load_config("digits_demo", [*supcon, f"recipe.data.path={tmp_path / 'split'}"]))) == 10
    )


def test_the_split_by_name_is_fixed_and_leaves_each_class_an_image_to_learn_from():
    train, test = halves_by_name(["a/1", "b/1", "b/2", "c/1", "c/2", "c/3"])
    assert test == ["b/2", "c/2"]
    assert train == ["a/1", "b/1", "c/1", "c/3"]


def test_a_flat_folder_cannot_be_evaluated_on_and_says_what_to_make(tmp_path):
    fill(tmp_path, "1.png", "2.png")
    for split in ("train", "test"):
        with pytest.raises(UserError, match=r"no class folders, and no 'train' and 'test'.*make a folder for each"):
            opened("folder", tmp_path, split)
    with pytest.raises(UserError, match="one image a class"):
        opened("folder", fill(tmp_path / "x", "a/1.png"), "test")


def test_an_image_beside_the_class_folders_is_named_and_takes_no_labels_from_evaluation(tmp_path):
    fill(tmp_path, "train/a/1.png", "train/b/1.png", "train/cover.png", "test/a/1.png", "test/b/1.png")
    train = opened("folder", tmp_path, "train")
    assert names(train) == ["a/1.png", "b/1.png"]
    assert train.labels.tolist() == [0, 1]
    assert "left out: cover.png: beside the class folders" in train.remarks
    pretraining = opened("folder", tmp_path)
    assert len(pretraining) == 3
    assert pretraining.labels is None
    assert "no classes, as cover.png stand beside the class folders" in pretraining.remarks


def test_the_path_of_no_folder_is_refused_in_good_words(tmp_path):
    with pytest.raises(UserError, match=r"is not a folder; give the folder of the images$"):
        opened("folder", tmp_path / "nowhere")


def test_the_summary_counts_images_and_classes_and_says_what_was_left_out(tmp_path):
    fill(tmp_path, "a/1.png", "b/1.png", "b/.2.png")
    assert summary(opened("folder", tmp_path), "folder") == (
        f"{tmp_path}: 2 images in 2 classes; left out: b/.2.png: hidden or a system's"
    )
    assert summary(open_source(Data(source="digits")), "digits") == "digits: 1,437 images in 10 classes"


@pytest.mark.parametrize(
    ("method", "found"),
    [
        ("simclr", "4 images in 2 classes"),
        (
            "supcon",
            "2 images in 2 classes; split by the hash of the names: one image of 5 of each class is a test image",
        ),
    ],
)
def test_every_command_that_opens_images_for_pretraining_says_what_it_found(tmp_path, capsys, method, found):
    root = fill(tmp_path / "photos", *(f"{name}/{number}.png" for name in "ab" for number in range(2)))
    (root / "a" / "x.svg").write_bytes(encoded(plain("RGB", 0), "PNG"))
    data = [
        "recipe.data.source=folder",
        f"recipe.data.path={root}",
        "recipe.data.image_size=16",
        f"recipe.method.name={method}",
    ]
    few = ["recipe.global_batch_images=2", "machine.loader_workers=0"]
    for arguments in (
        ["preview", "digits_demo", *data, "--images", "1", "--out", f"{tmp_path}/v.png"],
        ["data", "write", "digits_demo", f"{tmp_path}/x.beton", *data, "--workers", "0"],
        ["data", "bench", "digits_demo", *data, *few, "--images", "2", "--seconds", "0"],
    ):
        status, _, told = run_command(capsys, *arguments)
        assert status == 0
        assert f"{root}: {found}; left out: 1 .svg: no image's suffix\n" in told
