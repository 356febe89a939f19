"""Sets with masks as their files lie on disk: which images, which masks, which classes, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simclr_dist.config import Config
from simclr_dist.config.recipe import Data, Recipe
from simclr_dist.data.sources.base import IGNORED, ArraySource, BrokenImageError, Subset, with_masks
from simclr_dist.data.sources.identity import compare, images_of
from simclr_dist.data.sources.masked_files import MaskedFiles
from simclr_dist.data.sources.outside import CheckedSource
from simclr_dist.data.sources.summary import summary
from simclr_dist.errors import UserError
from tests.support.images import open_source, opened
from tests.support.masked import (
    Thresholded,
    drawn,
    write_cityscapes,
    write_folder,
    write_mask,
    write_pets,
    write_picture,
    write_sbd,
    write_voc,
)


def masks(source: MaskedFiles) -> list[np.ndarray]:
    return [source.read_with_mask(sample)[1].numpy() for sample in range(len(source))]


def names(source: MaskedFiles) -> list[str]:
    return [Path(source.name(sample)).stem for sample in range(len(source))]


def assert_equal(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.uint8
        np.testing.assert_array_equal(one, other)


# ---------------------------------------------------------------------------------------------- the sets


def test_voc_is_its_train_and_val_lists_with_21_classes_and_255_ignored(tmp_path):
    write_voc(tmp_path, train=["2007_1", "2007_0"], val=["2008_5"])
    for split in ("pretrain", "train"):
        source = opened("voc", tmp_path, split)
        assert names(source) == ["2007_1", "2007_0"]
        assert_equal(masks(source), [drawn(0, 21), drawn(1, 21)])
        assert (len(source.mask_classes), source.mask_classes[0], source.mask_classes[20]) == (
            21, "background", "tvmonitor",
        )  # fmt: skip
        assert source.labels is None
    test = opened("voc", tmp_path, "test")
    assert names(test) == ["2008_5"]
    image, mask = test.read_with_mask(0)
    assert torch.equal(image, test.read(0))
    assert (mask[0] == IGNORED).all()
    assert "1 images without classes, with masks of 21 classes" in summary(test, "voc")


def test_a_linked_voc_beside_sbd_is_read(tmp_path):
    write_voc(tmp_path / "elsewhere", train=["a"], val=["c"])
    write_sbd(tmp_path / "here" / "sbd", train=["b"], val=[])
    (tmp_path / "here" / "VOCdevkit").symlink_to(tmp_path / "elsewhere" / "VOCdevkit")
    source = opened("voc_sbd", tmp_path / "here")
    assert (names(source), len(masks(source))) == (["a", "b"], 2)


@pytest.mark.parametrize("folder", ["sbd", "benchmark_RELEASE/dataset", "."])
def test_sbd_adds_the_images_that_vocs_lists_lack(tmp_path, folder):
    write_voc(tmp_path, train=["a", "b"], val=["c"])
    write_sbd(tmp_path / folder, train=["b", "d"], val=["c", "e", "d"])
    source = opened("voc_sbd", tmp_path)
    assert names(source) == ["a", "b", "d", "e"]
    extra = [np.where(drawn(number, 21) == 255, 0, drawn(number, 21)) for number in (104, 103)]
    assert_equal(masks(source), [drawn(0, 21), drawn(1, 21), *extra])
    assert names(opened("voc_sbd", tmp_path, "test")) == ["c"]


def test_cityscapes_label_ids_become_its_19_classes_and_all_others_are_ignored(tmp_path):
    ids = np.array([[0, 7, 8, 11, 33], [26, 4, 29, 31, 255]], dtype=np.uint8)
    ids = np.repeat(np.repeat(ids, 3, axis=0), 2, axis=1)[:, :9]
    write_cityscapes(tmp_path, "ulm", "train", [2, 0, 1], ids)
    write_cityscapes(tmp_path, "aachen", "train", [3], ids)
    write_cityscapes(tmp_path, "bonn", "val", [0], ids)
    (tmp_path / "leftImg8bit" / "train" / "ulm" / ".DS_Store").write_bytes(b"x")
    source = opened("cityscapes", tmp_path)
    # The folder's own order differs between file systems.
    assert names(source) == [
        f"{name}_000019_leftImg8bit" for name in ("aachen_000003", *(f"ulm_00000{i}" for i in range(3)))
    ]
    assert (len(source.mask_classes), source.mask_classes[0], source.mask_classes[18]) == (19, "road", "bicycle")
    expected = np.select([ids == 7, ids == 8, ids == 11, ids == 33, ids == 26, ids == 31], [0, 1, 2, 18, 13, 16], 255)
    assert_equal(masks(source), [expected.astype(np.uint8)] * 4)
    assert len(opened("cityscapes", tmp_path, "test")) == 1


def test_pets_have_breeds_as_labels_and_a_mask_of_pet_and_background_without_the_border(tmp_path):
    trimap = np.full((6, 9), 2, dtype=np.uint8)
    trimap[2:4, 2:6], trimap[2:4, 4] = 1, 3
    write_pets(tmp_path, "trainval", {"Abyssinian_1": 1, "beagle_7": 2, "Abyssinian_2": 1}, trimap)
    write_pets(tmp_path, "test", {"beagle_9": 2, "Abyssinian_5": 1}, trimap)
    source = opened("oxford_pet", tmp_path)
    assert (source.labels.tolist(), source.classes) == ([0, 1, 0], ["Abyssinian", "Beagle"])
    assert source.mask_classes == ["background", "pet"]
    expected = np.array([255, 1, 0, 255], dtype=np.uint8)[trimap]
    assert_equal(masks(source), [expected] * 3)
    assert names(opened("oxford_pet", tmp_path, "test")) == ["beagle_9", "Abyssinian_5"]


def test_a_folder_without_splits_holds_a_fifth_out_by_hash_and_does_not_pretrain_on_it(tmp_path):
    write_folder(tmp_path, 20, ["ground", "cat"])
    write_picture(tmp_path / "unlabelled" / "x.jpg")
    parts = {split: names(opened("folder_with_masks", tmp_path, split)) for split in ("pretrain", "train", "test")}
    assert parts["pretrain"] == parts["train"]
    assert (len(parts["train"]), len(parts["test"])) == (16, 4)
    assert {*parts["train"], *parts["test"]} == set(map(str, range(20)))
    source = opened("folder_with_masks", tmp_path, "test")
    assert_equal(masks(source), [drawn(int(name), 2) for name in names(source)])


def test_a_folder_with_splits_has_the_classes_of_one_file(tmp_path):
    for split in ("train", "val"):
        write_folder(tmp_path / split, 3, ["ground", "cat"])
        (tmp_path / split / "classes.txt").replace(tmp_path / "classes.txt")
    assert len(opened("folder_with_masks", tmp_path)) == 3
    assert opened("folder_with_masks", tmp_path, "test").root == tmp_path / "val"


# ---------------------------------------------------------------------------------------------- few masks


def few(path: Path, count: int, others: str = "left_out") -> MaskedFiles:
    data = Data(source="folder_with_masks", path=str(path), labelled_images=count, unlabelled_images=others)
    return open_source(data)


def test_few_labelled_images_are_nested_and_do_not_depend_on_the_place_of_the_folder(tmp_path):
    write_folder(tmp_path / "here", 40, ["ground", "cat"])
    chosen = {count: set(names(few(tmp_path / "here", count))) for count in (2, 8, 16)}
    assert [len(each) for each in chosen.values()] == [2, 8, 16]
    assert chosen[2] < chosen[8] < chosen[16]
    shutil.copytree(tmp_path / "here", tmp_path / "elsewhere")
    here, elsewhere = few(tmp_path / "here", 8), few(tmp_path / "elsewhere", 8)
    assert names(elsewhere) == names(here)
    assert elsewhere.fingerprint() == here.fingerprint() != few(tmp_path / "here", 16).fingerprint()
    assert "8 of 32 masks by hash (set " in summary(here, "")


def test_the_others_may_stay_without_a_mask_with_those_that_never_had_one(tmp_path):
    write_folder(tmp_path, 20, ["ground", "cat"])
    write_picture(tmp_path / "unlabelled" / "x.jpg")
    source, chosen = few(tmp_path, 4, "kept"), names(few(tmp_path, 4))
    assert len(source) == 17
    for name, mask in zip(names(source), masks(source), strict=True):
        np.testing.assert_array_equal(mask, drawn(int(name), 2) if name in chosen else np.full((6, 9), 255))
    assert len(few(tmp_path, 0, "kept")) == 17
    assert "13 images without a mask" in summary(source, "")


def test_more_labelled_images_than_there_are_masks_are_refused(tmp_path):
    write_folder(tmp_path, 10, ["ground", "cat"])
    with pytest.raises(UserError, match="labelled_images: 9 is more than the 8 images with masks"):
        few(tmp_path, 9)


def test_a_part_of_a_source_has_the_masks_of_its_images(tmp_path):
    write_folder(tmp_path, 10, ["ground", "cat"])
    whole = opened("folder_with_masks", tmp_path)
    part = with_masks(Subset(whole, np.array([5, 2])))
    assert part.mask_classes == ["ground", "cat"]
    assert_equal([part.read_with_mask(row)[1].numpy() for row in (0, 1)], [masks(whole)[5], masks(whole)[2]])


# ---------------------------------------------------------------------------------------------- what is wrong


@pytest.fixture
def folder(tmp_path) -> Path:
    write_folder(tmp_path, 10, ["ground", "cat"])
    return tmp_path


def complaint(folder: Path) -> str:
    source = opened("folder_with_masks", folder)
    with pytest.raises(BrokenImageError) as error:
        masks(source)
    return str(error.value)


def put(folder: Path, values: np.ndarray, mode: str = "P") -> str:
    """In place of the first mask of the training images; its name."""
    name = names(opened("folder_with_masks", folder))[0]
    write_mask(folder / "masks" / f"{name}.png", values, mode)
    return name


def test_a_mask_of_another_size_is_told_with_both_files_and_sizes(folder):
    name = put(folder, drawn(0, 2, width=8))
    assert complaint(folder) == f"masks/{name}.png: the mask has 8 x 6 pixels and images/{name}.jpg 9 x 6"


def test_a_mask_that_lies_on_its_side_is_told_of_the_orientation(folder):
    put(folder, drawn(0, 2, width=6, height=9))
    assert "EXIF orientation (recipe.data.apply_orientation)?" in complaint(folder)


def test_a_number_beyond_the_classes_is_told_with_the_file(folder):
    name = put(folder, np.full((6, 9), 2, dtype=np.uint8))
    assert complaint(folder) == f"masks/{name}.png: the mask has the number 2, which is none of its 2 classes"


def test_a_coloured_mask_is_told_what_a_mask_is(folder):
    name = names(opened("folder_with_masks", folder))[0]
    write_picture(folder / "masks" / f"{name}.png")
    assert complaint(folder).startswith(f"masks/{name}.png: no mask: mode RGB; a mask has one channel of 8 bits")


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "empty file"), (b"\x89PNG\r\n\x1a\n", "no mask"), (b"\xff\xd8\xff", "a mask is a PNG")]
)
def test_a_damaged_mask_is_told_with_its_name(folder, content, why):
    name = names(opened("folder_with_masks", folder))[0]
    (folder / "masks" / f"{name}.png").write_bytes(content)
    message = complaint(folder)
    assert f"masks/{name}.png" in message
    assert why in message


def test_a_mask_that_vanishes_is_told_with_its_name(folder):
    source = opened("folder_with_masks", folder)
    name = names(source)[0]
    (folder / "masks" / f"{name}.png").unlink()
    with pytest.raises(BrokenImageError, match=f"masks/{name}.png.*No such file"):
        masks(source)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_grey_mask_of_few_bits_has_the_numbers_that_were_stored(folder, bits):
    values = np.where(drawn(0, 2) == 255, 0, drawn(0, 2)).astype(np.uint8)
    name = names(opened("folder_with_masks", folder))[0]
    (folder / "masks" / f"{name}.png").write_bytes(_grey_png(values, bits))
    np.testing.assert_array_equal(masks(opened("folder_with_masks", folder))[0], values)


def _grey_png(values: np.ndarray, bits: int) -> bytes:
    """As programs that make PNGs smaller write them, and Pillow does not."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    spread = (values[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    lines = [b"\0" + np.packbits(line.reshape(-1).astype(np.uint8)).tobytes() for line in spread]
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(lines))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_an_image_without_a_mask_is_refused_at_the_start_with_where_to_put_it(folder):
    (folder / "masks" / "3.png").unlink()
    (folder / "masks" / "4.png").unlink()
    with pytest.raises(UserError, match=r"masks/3.png is missing, .*images/3.jpg \(and 1 more.*unlabelled/") as error:
        opened("folder_with_masks", folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("gone", "named"),
    [("classes.txt", "classes.txt: No such file"), ("masks", "no folder masks/"), ("images", "no folder images/")],
)
def test_a_folder_that_lacks_a_part_is_refused_with_that_part(folder, gone, named):
    path = folder / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=named):
        opened("folder_with_masks", folder)


@pytest.mark.parametrize("source", ["voc", "voc_sbd", "cityscapes", "oxford_pet"])
def test_a_set_that_is_not_there_is_refused_with_its_path(tmp_path, source):
    with pytest.raises(UserError, match=str(tmp_path)):
        opened(source, tmp_path)


def test_voc_without_sbd_is_refused_with_the_folders_that_were_looked_for(tmp_path):
    write_voc(tmp_path, train=["a"], val=["c"])
    with pytest.raises(UserError, match=r"no SBD beside VOCdevkit/.*sbd, SBD, benchmark_RELEASE/dataset"):
        opened("voc_sbd", tmp_path)


def test_the_fingerprint_changes_with_a_mask_and_with_the_classes(folder):
    before = opened("folder_with_masks", folder).fingerprint()
    (folder / "classes.txt").write_text("ground\ndog\n")
    other = opened("folder_with_masks", folder).fingerprint()
    Image.new("L", (9, 6)).save(folder / "masks" / f"{names(opened('folder_with_masks', folder))[0]}.png")
    assert len({before, other, opened("folder_with_masks", folder).fingerprint()}) == 3


def test_a_run_does_not_resume_with_masks_that_were_drawn_anew_and_does_with_a_copy(folder, tmp_path_factory):
    before = images_of(source := opened("folder_with_masks", folder))
    copied = tmp_path_factory.mktemp("copy") / "data"
    shutil.copytree(folder, copied, copy_function=shutil.copyfile)
    copy = opened("folder_with_masks", copied)
    assert compare(before, images_of(copy), copy) == (
        "", "the files of the images have other times and the same names and sizes: taken for a copy",
    )  # fmt: skip
    Image.new("L", (9, 6)).save(folder / "masks" / f"{names(source)[3]}.png")
    assert "were replaced under the same names" in compare(before, images_of(source), source)[0]


def test_labelled_images_of_a_source_without_masks_are_refused():
    config = Config(recipe=Recipe(data=Data(source="digits", labelled_images=4)))
    with pytest.raises(ValueError, match=r"recipe.data.labelled_images: is for sources with masks .*'digits'"):
        config.check()


# ---------------------------------------------------------------------------------------------- of one's own


class Own(Thresholded):
    """A source from outside, whose images and masks may be anything."""

    def __init__(self, made: object = None, classes: list[str] | None = None) -> None:
        super().__init__(images=2, height=5, width=7)
        self.made, self.mask_classes = made, classes or self.mask_classes

    def read_with_mask(self, sample):
        return super().read_with_mask(sample) if self.made is None else self.made


IMAGE = torch.zeros(3, 5, 7, dtype=torch.uint8)


def test_a_source_of_ones_own_with_masks_is_read_as_it_is():
    image, mask = with_masks(CheckedSource(Own(), "x:y")).read_with_mask(1)
    assert torch.equal(mask, Own().read_with_mask(1)[1])
    assert torch.equal(image, Own().read(1))
    assert with_masks(CheckedSource(ArraySource(Own().images, None, []), "x:y")) is None


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (IMAGE, r"returns Tensor, not a pair \(image, mask\)"),
        ((IMAGE, IMAGE[0].long()), r"the mask torch.int64 \(5, 7\), not uint8 \(5, 7\)"),
        ((IMAGE, IMAGE[0, 1:]), r"the mask torch.uint8 \(4, 7\), not uint8 \(5, 7\)"),
        ((IMAGE, IMAGE[0] + 4), "a mask with 4, with 4 mask_classes"),
        ((IMAGE[0], IMAGE[0]), r"returns the shape \(5, 7\), not \(3, height, width\)"),
    ],
)
def test_a_source_of_ones_own_with_wrong_masks_is_refused(made, why):
    with pytest.raises(UserError, match=r"'x:y' is no source of images: read_with_mask\(0\).*" + why):
        CheckedSource(Own(made), "x:y")


def test_a_source_of_ones_own_with_too_many_classes_or_nothing_to_read_them_is_refused():
    with pytest.raises(UserError, match="256 mask_classes; at most 255"):
        CheckedSource(Own(classes=["x"] * 256), "x:y")
    source = ArraySource(Own().images, None, [])
    source.mask_classes = ["x"]
    with pytest.raises(UserError, match="has mask_classes and no read_with_mask"):
        CheckedSource(source, "x:y")
