"""Where images come from: every format is read to the right pixels and labels, and what is missing or broken is told.

The data sets are written here in the files that torchvision reads; their checksums are those of the files written.
"""

import errno
import gzip
import hashlib
import os
import pickle
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets

from simclr_dist.config.recipe import SOURCES, SOURCES_WITHOUT_PATH, Data
from simclr_dist.data.sources.base import ArraySource, BrokenImageError, Subset
from simclr_dist.data.sources.decoding import decode, decode_jpeg
from simclr_dist.data.sources.files import FileSource
from simclr_dist.data.sources.folders import find_images
from simclr_dist.data.sources.identity import compare, contents_digest, images_of
from simclr_dist.data.sources.named import SPLITS
from simclr_dist.errors import UserError
from tests.support.images import COLOR, NOISE, encoded, first_pixel, open_source, opened, plain, write_image

NEED_PATH = [source for source in SOURCES if source not in SOURCES_WITHOUT_PATH]


def complaint(source: str, path: Path, split: str = "pretrain") -> str:
    with pytest.raises(UserError) as caught:
        opened(source, path, split)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# ---------------------------------------------------------------------------------------------- CIFAR


class WrittenCifar:
    """A tiny CIFAR in the pickles that torchvision reads, with its checksums in torchvision's lists."""

    def __init__(self, name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        reader = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
        self.folder = root / reader.base_folder
        self.folder.mkdir()
        random = np.random.default_rng(0)
        self.classes = [f"class {number}" for number in range(4)]
        self.images, self.labels = {"train": [], "test": []}, {"train": [], "test": []}
        for split, attribute in (("train", "train_list"), ("test", "test_list")):
            files = []
            for file, _ in getattr(reader, attribute):
                images = random.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
                labels = random.integers(0, 4, 3).tolist()
                self.images[split].append(images)
                self.labels[split] += labels
                content = {"data": images.reshape(3, -1), "labels" if name == "cifar10" else "fine_labels": labels}
                files.append([file, self._write(file, content)])
            monkeypatch.setattr(reader, attribute, files)
        meta = reader.meta
        checksum = self._write(meta["filename"], {meta["key"]: self.classes})
        monkeypatch.setattr(reader, "meta", {**meta, "md5": checksum})

    def _write(self, name: str, content: object) -> str:
        encoded = pickle.dumps(content)
        (self.folder / name).write_bytes(encoded)
        return hashlib.md5(encoded).hexdigest()


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request, tmp_path, monkeypatch) -> tuple[str, Path, WrittenCifar]:
    return request.param, tmp_path, WrittenCifar(request.param, tmp_path, monkeypatch)


@pytest.mark.parametrize("split", SPLITS)
def test_cifar_gives_every_pixel_of_every_channel_and_every_label(cifar, split):
    name, path, written = cifar
    part = "test" if split == "test" else "train"
    source = opened(name, path, split)
    images = np.concatenate(written.images[part])
    assert len(source) == len(images)
    assert source.labels.tolist() == written.labels[part]
    assert source.labels.dtype == np.int64
    assert source.classes == written.classes
    for sample, image in enumerate(images):
        read = source.read(sample)
        assert read.dtype == torch.uint8
        np.testing.assert_array_equal(read.numpy(), image)


@pytest.mark.parametrize("damage", ["cut", "one byte", "missing", "no pickle"])
def test_a_damaged_cifar_is_refused_with_its_folder(cifar, damage):
    name, path, written = cifar
    batch = sorted(written.folder.iterdir())[0]
    content = batch.read_bytes()
    if damage == "missing":
        batch.unlink()
    else:
        damaged = {"cut": content[:-100], "one byte": content[:-9] + b"x" + content[-8:], "no pickle": b"x" * 50}
        batch.write_bytes(damaged[damage])
    message = complaint(name, path)
    assert message.startswith("recipe.data.path: ")
    assert str(path) in message
    assert name.upper() in message


def test_a_cifar_whose_checksum_holds_but_that_cannot_be_unpickled_is_refused(tmp_path, monkeypatch):
    written = WrittenCifar("cifar10", tmp_path, monkeypatch)
    (written.folder / "data_batch_1").write_bytes(b"no pickle")
    files = [
        [name, hashlib.md5((written.folder / name).read_bytes()).hexdigest()] for name, _ in datasets.CIFAR10.train_list
    ]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", files)
    assert "CIFAR10" in complaint("cifar10", tmp_path)


# ---------------------------------------------------------------------------------------------- Fashion-MNIST


@pytest.fixture
def fashion_mnist(tmp_path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Split -> images (n, 28, 28) and labels, written as the IDX files of the data set, compressed."""
    random, written = np.random.default_rng(0), {}
    for split, part, count in (("train", "train", 4), ("test", "t10k", 3)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = random.integers(0, 10, count, dtype=np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">i4").tobytes()
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
        written[split] = images, labels
    return written


@pytest.mark.parametrize("layout", ["compressed", "torchvision's"])
@pytest.mark.parametrize("split", SPLITS)
def test_fashion_mnist_gives_every_pixel_in_three_channels_and_every_label(fashion_mnist, tmp_path, split, layout):
    if layout == "torchvision's":
        raw = tmp_path / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for file in list(tmp_path.glob("*.gz")):
            (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
            file.unlink()
        reference = datasets.FashionMNIST(tmp_path, train=split != "test")
        converted = [np.array(image.convert("RGB")).transpose(2, 0, 1) for image, _ in reference]
    images, labels = fashion_mnist["test" if split == "test" else "train"]
    source = opened("fashion_mnist", tmp_path, split)
    assert source.labels.tolist() == labels.tolist()
    assert source.classes == datasets.FashionMNIST.classes
    expected = np.repeat(images[:, None], 3, axis=1) if layout == "compressed" else converted
    np.testing.assert_array_equal([source.read(sample).numpy() for sample in range(len(source))], expected)


def test_where_no_fashion_mnist_is_the_line_tells_how_to_get_it(fashion_mnist, tmp_path):
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    message = complaint("fashion_mnist", tmp_path)
    assert message.startswith("recipe.data.path: no train-labels-idx1-ubyte")
    assert "dataset-fashion-mnist" in message


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(b"cut"), gzip.compress(b"\0\0\x08\x01\0\0\0\x01\x07")],
    ids=["no gzip", "cut", "one label of two"],  # gzip's bytes hold the time, and would name a test by it
)
def test_a_damaged_fashion_mnist_is_refused_with_its_folder(fashion_mnist, tmp_path, content):
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(content)
    message = complaint("fashion_mnist", tmp_path)
    assert message.startswith(f"recipe.data.path: torchvision cannot read FashionMNIST in {tmp_path}")


# ---------------------------------------------------------------------------------------------- STL10


class WrittenStl10:
    """A tiny STL10: columns before rows, classes from 1, and images without labels."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = root / datasets.STL10.base_folder
        self.folder.mkdir()
        random = np.random.default_rng(0)
        self.classes = ["airplane", "bird", "car"]
        (self.folder / "class_names.txt").write_text("\n".join(self.classes) + "\n")
        counts = {"unlabeled": 5, "train": 3, "test": 2}
        self.images = {split: random.integers(0, 256, (n, 3, 96, 96), dtype=np.uint8) for split, n in counts.items()}
        self.labels = {split: random.integers(0, 3, counts[split]) for split in ("train", "test")}
        content = {f"{split}_X.bin": images.transpose(0, 1, 3, 2).tobytes() for split, images in self.images.items()}
        content |= {f"{split}_y.bin": (labels + 1).astype(np.uint8).tobytes() for split, labels in self.labels.items()}
        for name, data in content.items():
            (self.folder / name).write_bytes(data)
        for attribute in ("train_list", "test_list"):
            files = [[name, hashlib.md5(content[name]).hexdigest()] for name, _ in getattr(datasets.STL10, attribute)]
            monkeypatch.setattr(datasets.STL10, attribute, files)


@pytest.fixture
def stl10(tmp_path, monkeypatch) -> tuple[Path, WrittenStl10]:
    return tmp_path, WrittenStl10(tmp_path, monkeypatch)


@pytest.mark.parametrize(("split", "part"), [("pretrain", "unlabeled"), ("train", "train"), ("test", "test")])
def test_stl10_pretrains_on_the_unlabelled_images_and_evaluates_on_the_others(stl10, split, part):
    path, written = stl10
    source = opened("stl10", path, split)
    assert len(source) == len(written.images[part])
    for sample, image in enumerate(written.images[part]):
        np.testing.assert_array_equal(source.read(sample).numpy(), image)
    assert source.classes == written.classes
    if part == "unlabeled":
        assert source.labels is None
    else:
        assert source.labels.tolist() == written.labels[part].tolist()


@pytest.mark.parametrize("file", ["unlabeled_X.bin", "train_y.bin", "test_X.bin"])
def test_a_damaged_stl10_is_refused_with_its_folder(stl10, file):
    path, written = stl10
    (written.folder / file).write_bytes(b"short")
    message = complaint("stl10", path)
    assert "STL10" in message
    assert str(path) in message


def test_stl10_without_its_class_names_is_read_without_them(stl10):
    # torchvision does not check that file, and then leaves the attribute out.
    path, written = stl10
    (written.folder / "class_names.txt").unlink()
    source = opened("stl10", path)
    assert len(source) == len(written.images["unlabeled"])
    assert source.classes == []


# ---------------------------------------------------------------------------------------------- ImageNet


@pytest.fixture
def imagenet(tmp_path) -> Path:
    # Names of classes are not in the order of their folders.
    words = {"n02": ("ant", "pismire"), "n01": ("tench", "Tinca tinca"), "n03": ("bee",)}
    torch.save((words, ["n03", "n01"]), tmp_path / "meta.bin")
    for number, wnid in enumerate(sorted(words)):
        for image in range(number + 1):
            write_image(tmp_path / "train" / wnid / f"{wnid}_{image}.JPEG", (10 * number, image, 7))
        write_image(tmp_path / "val" / wnid / "ILSVRC2012_val_1.JPEG", (99, number, 0))
    return tmp_path


@pytest.mark.parametrize("split", ["pretrain", "train"])
def test_imagenet_gives_its_training_images_with_labels_and_first_words(imagenet, split):
    source = opened("imagenet", imagenet, split)
    assert source.classes == ["tench", "ant", "bee"]
    assert source.labels.tolist() == [0, 1, 1, 2, 2, 2]
    assert [first_pixel(source, sample) for sample in range(6)] == [
        *((0, 0, 7), (10, 0, 7), (10, 1, 7)),
        *((20, 0, 7), (20, 1, 7), (20, 2, 7)),
    ]


def test_imagenet_holds_its_validation_images_out(imagenet):
    source = opened("imagenet", imagenet, "test")
    assert source.labels.tolist() == [0, 1, 2]
    assert [first_pixel(source, sample) for sample in range(3)] == [(99, 0, 0), (99, 1, 0), (99, 2, 0)]


def test_hidden_files_among_imagenets_are_left_out_with_their_labels(imagenet):
    (imagenet / "train" / "n01" / "._n01_0.JPEG").write_bytes(b"no image")
    source = opened("imagenet", imagenet)
    assert source.labels.tolist() == [0, 1, 1, 2, 2, 2]
    assert source.remarks == ("left out: 1 hidden files",)


@pytest.mark.parametrize("lost", ["meta.bin", "train"])
def test_an_imagenet_without_a_part_is_refused_with_its_folder(imagenet, lost):
    path = imagenet / lost
    path.unlink() if path.is_file() else shutil.rmtree(path)
    message = complaint("imagenet", imagenet)
    assert ("recipe.data.source=folder" in message) == (lost == "meta.bin")
    assert "ImageNet" in message
    assert str(imagenet) in message


# ---------------------------------------------------------------------------------------------- folders


def test_a_folder_gives_all_images_below_it_at_any_depth_in_the_order_of_their_names(tmp_path):
    names = ["b/2.png", "a/deep/er/1.png", "a/1.png", "c/x y.PNG"]
    for number, name in enumerate(names):
        write_image(tmp_path / name, (number, 0, 0))
    (tmp_path / "a" / "notes.txt").write_text("no image")
    source = opened("folder", tmp_path)
    assert [source.name(sample) for sample in range(len(source))] == [
        "a/1.png",
        "a/deep/er/1.png",
        "b/2.png",
        "c/x y.PNG",
    ]
    assert [first_pixel(source, sample)[0] for sample in range(4)] == [2, 1, 0, 3]


def test_the_label_of_an_image_is_the_first_folder_it_lies_in(tmp_path):
    for name in ("dog/1.png", "cat/deep/1.png", "cat/2.png", "eel/deep/cat/1.png"):
        write_image(tmp_path / name)
    source = opened("folder", tmp_path)
    assert source.classes == ["cat", "dog", "eel"]
    assert [source.classes[label] for label in source.labels] == ["cat", "cat", "dog", "eel"]


def test_a_folder_without_images_is_no_class(tmp_path):
    for name in ("train/cat/1.png", "train/eel/1.png", "test/cat/1.png"):
        write_image(tmp_path / name)
    (tmp_path / "train" / "dog").mkdir()
    source = opened("folder", tmp_path, "train")
    assert source.classes == ["cat", "eel"]
    assert source.labels.tolist() == [0, 1]


def test_one_image_outside_the_class_folders_leaves_all_without_labels(tmp_path):
    for name in ("1.png", "cat/2.png"):
        write_image(tmp_path / name)
    source = opened("folder", tmp_path)
    assert len(source) == 2
    assert source.labels is None
    assert source.classes == []


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_folders_named_train_and_test_or_val_are_the_splits(tmp_path, held_out):
    for name, color in (
        ("train/cat/1.png", 1),
        ("train/dog/1.png", 2),
        (f"{held_out}/cat/1.png", 3),
        (f"{held_out}/dog/1.png", 4),
    ):
        write_image(tmp_path / name, (color, 0, 0))
    for split, reds in (("pretrain", [1, 2]), ("train", [1, 2]), ("test", [3, 4])):
        source = opened("folder", tmp_path, split)
        assert [first_pixel(source, sample)[0] for sample in range(len(source))] == reds
        assert [source.classes[label] for label in source.labels] == ["cat", "dog"]


def test_a_class_has_the_same_number_in_both_splits_when_one_lacks_a_class(tmp_path):
    for name in ("train/cat/1.png", "train/dog/1.png", "train/eel/1.png", "test/dog/1.png", "test/eel/1.png"):
        write_image(tmp_path / name)
    train, test = (opened("folder", tmp_path, split) for split in ("train", "test"))
    numbers = dict(zip(train.classes, range(3), strict=True))
    assert test.labels.tolist() == [numbers["dog"], numbers["eel"]]


@pytest.mark.parametrize(
    "name",
    [
        b"with space.png",
        b" lead.png",
        "naïve 猫.png".encode(),
        b"\xff\xfe.png",
        b"new\nline.png",
        b"a'\"$(x);.png",
        b"-x.png",
        b"%d.png",
    ],
    ids=["space", "leading space", "unicode", "not UTF-8", "new line", "shell", "dash", "percent"],
)
def test_an_image_of_any_name_is_read_and_a_broken_one_named_in_one_printable_line(tmp_path, name):
    folder = os.path.join(os.fsencode(tmp_path), b"class \xfe")
    write_image(Path(os.fsdecode(os.path.join(folder, name))))
    source = opened("folder", tmp_path)
    assert first_pixel(source, 0) == COLOR
    assert os.fsencode(source.name(0)) == b"class \xfe/" + name
    with open(os.path.join(folder, name), "wb"):
        pass
    with pytest.raises(BrokenImageError) as caught:
        source.read(0)
    assert str(caught.value).encode("utf-8")
    assert len(str(caught.value).splitlines()) == 1
    assert ".png: " in str(caught.value)


def test_a_class_folder_behind_a_link_is_read_too(tmp_path):
    # Data sets on shared disks are often put together from links; passing over them would train on fewer images.
    write_image(tmp_path / "elsewhere" / "cat" / "1.png")
    write_image(tmp_path / "images" / "dog" / "1.png")
    (tmp_path / "images" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    source = opened("folder", tmp_path / "images")
    assert [source.name(sample) for sample in range(len(source))] == ["cat/1.png", "dog/1.png"]


def test_a_link_to_a_folder_above_does_not_repeat_images(tmp_path):
    # A repeated image would be its own false negative.
    write_image(tmp_path / "cat" / "1.png")
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    source = opened("folder", tmp_path)
    assert [source.name(sample) for sample in range(len(source))] == ["cat/1.png"]


@pytest.mark.parametrize("first", ["x", "y"])
def test_a_folder_that_is_linked_too_has_the_class_of_its_own_place_or_of_the_first_link(tmp_path, first):
    write_image(tmp_path / "set" / "b" / "1.png")
    write_image(tmp_path / "outside" / "2.png")
    (tmp_path / "set" / "a").mkdir()
    (tmp_path / "set" / "a" / "friends").symlink_to("../b")
    for name in (first, "y" if first == "x" else "x"):
        (tmp_path / "set" / "b" / name).symlink_to(tmp_path / "outside")
    assert find_images(tmp_path / "set").names == ["b/1.png", "b/x/2.png"]


def test_an_image_behind_a_link_is_read_too(tmp_path):
    write_image(tmp_path / "elsewhere.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").symlink_to(tmp_path / "elsewhere.png")
    assert first_pixel(opened("folder", tmp_path / "images"), 0) == COLOR


def test_a_folder_named_like_an_image_is_no_image(tmp_path):
    write_image(tmp_path / "cat.jpg" / "1.png")
    source = opened("folder", tmp_path)
    assert [source.name(sample) for sample in range(len(source))] == ["cat.jpg/1.png"]


@pytest.mark.parametrize("source", NEED_PATH)
def test_a_missing_folder_is_refused_with_its_name(tmp_path, source):
    message = complaint(source, tmp_path / "nowhere")
    assert message.startswith("recipe.data.path: ")
    assert str(tmp_path / "nowhere") in message


@pytest.mark.parametrize("source", NEED_PATH)
def test_a_file_in_place_of_a_folder_is_refused_with_its_name(tmp_path, source):
    (tmp_path / "archive.tar").write_bytes(b"")
    assert str(tmp_path / "archive.tar") in complaint(source, tmp_path / "archive.tar")


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("source", NEED_PATH)
def test_an_empty_folder_is_refused_with_its_name(tmp_path, source, split):
    message = complaint(source, tmp_path, split)
    assert message.startswith("recipe.data.path: ")
    assert str(tmp_path) in message


def test_a_folder_without_images_is_refused_with_the_names_that_were_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    message = complaint("folder", tmp_path)
    assert ".jpg" in message
    assert ".png" in message


# ---------------------------------------------------------------------------------------------- odd and broken files


def png_16_bit(color: tuple[int, ...]) -> bytes:
    """A 16-bit PNG of one pixel, grey or RGB; Pillow writes none with colours."""
    kind = {1: 0, 3: 2}[len(color)]
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 1, 1, 16, kind, 0, 0, 0),
        b"IDAT": zlib.compress(b"\0" + struct.pack(f">{len(color)}H", *color)),
        b"IEND": b"",
    }
    parts = [struct.pack(">I", len(x)) + n + x + struct.pack(">I", zlib.crc32(n + x)) for n, x in chunks.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("content", "pixel"),
    [
        (encoded(plain("RGB", COLOR), "PNG"), COLOR),
        (encoded(plain("RGB", COLOR), "BMP"), COLOR),
        (encoded(plain("RGB", COLOR), "WEBP", lossless=True), COLOR),
        (encoded(plain("L", 77), "PNG"), (77, 77, 77)),
        (encoded(plain("L", 77), "JPEG"), (77, 77, 77)),
        (encoded(plain("LA", (77, 0)), "PNG"), (255, 255, 255)),
        (encoded(plain("1", 1), "PNG"), (255, 255, 255)),
        (encoded(plain("RGB", COLOR).quantize(2), "PNG"), COLOR),
        (encoded(plain("RGB", COLOR).quantize(2), "PNG", transparency=b"\xff\x00"), COLOR),
        (encoded(plain("RGB", COLOR), "GIF"), COLOR),
        (encoded(plain("RGBA", (*COLOR, 255)), "PNG"), COLOR),
        (encoded(plain("CMYK", (0, 0, 0, 0)), "JPEG"), (255, 255, 255)),
        (png_16_bit((200 << 8, 90 << 8, 30 << 8)), COLOR),
    ],
    ids=[
        *("RGB", "BMP", "WebP", "grey", "grey JPEG", "grey with alpha", "one bit", "palette", "palette with alpha"),
        *("GIF", "RGBA", "CMYK JPEG", "16-bit RGB"),
    ],
)
def test_an_image_of_any_mode_is_read_as_rgb_without_a_warning(tmp_path, recwarn, content, pixel):
    (tmp_path / "x.png").write_bytes(content)
    read = opened("folder", tmp_path).read(0)
    assert [str(warning.message) for warning in recwarn] == []  # every worker of every process would print it
    assert read.dtype == torch.uint8
    assert read.shape[0] == 3
    assert tuple(read[:, 0, 0].tolist()) == pixel


@pytest.mark.parametrize("value", [0, 77 << 8, 200 << 8, 65_535])
def test_a_16_bit_grey_image_is_scaled_to_8_bits_and_not_cut_off_at_white(tmp_path, value):
    (tmp_path / "x.png").write_bytes(png_16_bit((value,)))
    assert first_pixel(opened("folder", tmp_path), 0) == pytest.approx([value / 257] * 3, abs=1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, I am text\nof two lines\n",
        b"\xff\xd8\xff",
        encoded(NOISE, "JPEG")[:1500],
        encoded(NOISE, "PNG")[:3000],
        encoded(NOISE, "PNG")[:20],
        encoded(NOISE, "PNG")[:500] + bytes(200) + encoded(NOISE, "PNG")[700:],
    ],
    ids=["empty", "text", "JPEG mark only", "cut JPEG", "cut PNG", "PNG head only", "zeroed PNG"],
)
def test_a_broken_file_raises_with_its_name_and_a_reason_in_one_line(tmp_path, content):
    write_image(tmp_path / "cat" / "1.png")
    (tmp_path / "cat" / "2.jpg").write_bytes(content)
    source = opened("folder", tmp_path)
    with pytest.raises(BrokenImageError) as caught:
        source.read(1)
    assert str(caught.value).startswith("cat/2.jpg: ")
    assert len(str(caught.value).splitlines()) == 1
    assert first_pixel(source, 0) == COLOR


@pytest.mark.parametrize("damage", ["removed", "dangling link"])
def test_a_file_that_is_gone_raises_as_a_broken_image(tmp_path, damage):
    path = tmp_path / "1.png"
    write_image(path)
    source = opened("folder", tmp_path)
    path.unlink()
    if damage == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(BrokenImageError, match=r"^1\.png: "):
        source.read(0)


def test_an_image_is_read_in_rows_and_columns_as_it_lies(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "1.png")
    read = opened("folder", tmp_path).read(0)
    np.testing.assert_array_equal(read.numpy(), pixels.transpose(2, 0, 1))


# ---------------------------------------------------------------------------------------------- digits


def test_digits_are_split_into_1437_and_360():
    assert [len(open_source(Data(source="digits"), split)) for split in SPLITS] == [1437, 1437, 360]


def test_the_splits_of_the_digits_share_no_image_and_leave_none_out():
    train, test = (open_source(Data(source="digits"), split) for split in ("train", "test"))
    both = np.concatenate((train.images, test.images))[:, 0].reshape(-1, 64)
    labels = np.concatenate((train.labels, test.labels))
    digits = load_digits()
    whole = np.round(digits.data * (255 / 16)).astype(np.uint8)
    # Were an image in both, another would be missing in the whole.
    assert sorted(map(bytes, np.column_stack((both, labels.astype(np.uint8))))) == sorted(
        map(bytes, np.column_stack((whole, digits.target.astype(np.uint8))))
    )


def test_the_digits_are_three_equal_channels_from_black_to_white():
    source = open_source(Data(source="digits"))
    assert source.images.shape[1:] == (3, 8, 8)
    assert (source.images.min(), source.images.max()) == (0, 255)
    assert all((source.images[:, 0] == source.images[:, channel]).all() for channel in (1, 2))


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_ten_digits_are_in_both_splits(split):
    source = open_source(Data(source="digits"), split)
    assert np.bincount(source.labels, minlength=10).min() >= 20
    assert source.classes == [str(digit) for digit in range(10)]


def test_the_digits_are_the_same_whenever_they_are_opened():
    first, again = open_source(Data(source="digits")), open_source(Data(source="digits", image_size=16))
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.fingerprint() == again.fingerprint() != open_source(Data(source="digits"), "test").fingerprint()


# ---------------------------------------------------------------------------------------------- fingerprints


def test_the_fingerprint_of_files_changes_with_a_name_and_not_with_the_place(tmp_path):
    for place in ("here", "there"):
        for name in ("cat/1.png", "dog/1.png"):
            write_image(tmp_path / place / name)
    here, there = (opened("folder", tmp_path / place).fingerprint() for place in ("here", "there"))
    assert here == there
    write_image(tmp_path / "there" / "dog" / "2.png")
    more = opened("folder", tmp_path / "there").fingerprint()
    (tmp_path / "there" / "dog" / "2.png").rename(tmp_path / "there" / "dog" / "3.png")
    renamed = opened("folder", tmp_path / "there").fingerprint()
    assert len({here, more, renamed}) == 3


def test_a_copy_is_the_same_set_and_a_replaced_file_is_not(tmp_path):
    for number in range(3):
        write_image(tmp_path / "here" / "cat" / f"{number}.png")
    first = opened("folder", tmp_path / "here")
    known, fingerprint, digest = images_of(first), first.fingerprint(), contents_digest(first)
    assert compare(known, images_of(first), first) == ("", "")
    copy = opened("folder", shutil.copytree(tmp_path / "here", tmp_path / "copy", copy_function=shutil.copyfile))
    assert copy.fingerprint() == fingerprint
    other, remark = compare(known, images_of(copy), copy)
    assert not other
    assert "taken for a copy" in remark
    assert contents_digest(copy) != digest
    image = tmp_path / "here" / "cat" / "1.png"
    image.write_bytes(image.read_bytes() + b"more")
    assert first.fingerprint() != fingerprint
    assert "replaced under the same names" in compare(known, images_of(first), first)[0]


def test_a_file_replaced_by_one_of_its_size_and_old_time_is_another_content(tmp_path):
    write_image(tmp_path / "cat" / "1.png")
    source, image = opened("folder", tmp_path), tmp_path / "cat" / "1.png"
    digests = [contents_digest(source), contents_digest(Subset(source, np.arange(1)))]
    then = image.stat()
    image.write_bytes(bytes(then.st_size))
    os.utime(image, ns=(then.st_atime_ns, then.st_mtime_ns))
    again = [contents_digest(source), contents_digest(Subset(source, np.arange(1)))]
    assert len({*digests, *again}) == 4


def test_a_lost_file_may_be_replaced_by_an_empty_one_and_a_set_of_an_earlier_version_is_known_by_its_names(tmp_path):
    for number in range(3):
        write_image(tmp_path / "cat" / f"{number}.png")
    source = opened("folder", tmp_path)
    known = images_of(source)
    earlier = {key: known[key] for key in ("count", "fingerprint")}
    (tmp_path / "cat" / "1.png").write_bytes(b"")
    assert compare(known, images_of(source), source)[0] == ""
    assert compare(earlier, images_of(source), source) == ("", "")
    assert "images differ" in compare(earlier | {"count": 4}, images_of(source), source)[0]


def test_files_that_the_system_cannot_ask_about_are_an_error_and_not_another_set(tmp_path, monkeypatch):
    write_image(tmp_path / "cat" / "1.png")
    source = opened("folder", tmp_path)

    def stat(path: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr("simclr_dist.data.sources.identity.os.stat", stat)
        complaints = []
        for ask in (images_of, contents_digest):
            with pytest.raises(UserError) as refused:
                ask(source)
            complaints.append(str(refused.value))
    assert all("1.png: cannot be read: Input/output error" in text for text in complaints)


def test_many_files_are_asked_about_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr("simclr_dist.data.sources.identity._MANY", 10)
    names = [f"{number}.png" for number in range(37)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes(number))
    assert FileSource(tmp_path, names, None, []).states().sizes.tolist() == list(range(37))


def test_the_fingerprint_tells_names_apart_that_are_equal_when_joined(tmp_path):
    one = FileSource(tmp_path, ["a.png", "b.pngc.png"], None, [])
    other = FileSource(tmp_path, ["a.pngb.png", "c.png"], None, [])
    assert one.fingerprint() != other.fingerprint()


def test_the_fingerprint_of_an_array_changes_with_an_image_a_pixel_and_the_order():
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 4), dtype=np.uint8)
    pixel = images.copy()
    pixel[7, 1, 2, 3] ^= 1
    variants = [
        images,
        images[:-1],
        np.concatenate((images, images[:1])),
        pixel,
        images[::-1],
        images.reshape(20, 3, 2, 8),
    ]
    assert len({ArraySource(variant, None, []).fingerprint() for variant in variants}) == len(variants)
    assert ArraySource(images.copy(), None, []).fingerprint() == ArraySource(images, None, []).fingerprint()


def test_an_image_read_from_an_array_can_be_changed_without_changing_the_array():
    source = open_source(Data(source="digits"))
    before = source.read(0).clone()
    source.read(0).zero_()
    assert torch.equal(source.read(0), before)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True, "subsampling": 2}])
def test_jpegs_have_the_same_pixels_whichever_library_decodes_them(tmp_path, mode, options):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    path = tmp_path / "image.jpg"
    Image.fromarray(noise).convert(mode).save(path, **options)
    with Image.open(path) as image:
        np.testing.assert_array_equal(decode(path.read_bytes()), np.array(image.convert("RGB")))
    assert (decode_jpeg(path.read_bytes()) is None) == (mode == "CMYK")


@pytest.mark.parametrize("cut", [0, 2, 100, 600])
def test_a_damaged_jpeg_is_left_to_pillow_whose_reason_is_reported(tmp_path, cut):
    path = tmp_path / "image.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()[:cut]
    assert decode_jpeg(data) is None
    path.write_bytes(data)
    with pytest.raises(BrokenImageError, match=r"image\.jpg: \w*Error: "):
        FileSource(tmp_path, ["image.jpg"], None, []).read(0)
