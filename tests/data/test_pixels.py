"""From a picture of any kind to RGB: its transparency, its orientation, its own range, the same in every reader."""

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image, ImageOps

from simclr_dist.config import Recipe, to_dict
from simclr_dist.config.recipe import Data
from simclr_dist.data.loading.plain import GivenImages
from simclr_dist.data.sources.base import BrokenImageError, Subset
from simclr_dist.data.sources.beton.encoding import Encoding
from simclr_dist.data.sources.beton.source import BetonSource
from simclr_dist.data.sources.beton.writer import write_beton
from simclr_dist.data.sources.decoding import decode
from simclr_dist.data.sources.files import FileSource
from simclr_dist.data.sources.orientation import exif_orientation, jpeg_orientation
from simclr_dist.data.sources.pixels import GROUNDS, PixelRule
from simclr_dist.errors import UserError
from simclr_dist.evaluation.features import Extraction, features_digest
from simclr_dist.run.same_recipe import differences
from tests.support.images import COLOR, NOISE, encoded, plain

WHITE, GREY = PixelRule(), PixelRule(ground=128)
STORED = PixelRule(ground=None, apply_orientation=False)
CORNERS = Image.fromarray(np.kron(np.arange(1, 7, dtype=np.uint8).reshape(2, 3) * 40, np.ones((32, 32), np.uint8)))


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


def pixel(content: bytes, rule: PixelRule = WHITE) -> tuple[int, ...]:
    return tuple(decode(content, rule)[0, 0].tolist())


def png(bits: int, kind: int, row: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of one pixel."""
    header = struct.pack(">IIBBBBB", 1, 1, bits, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(text)) + name + text + struct.pack(">I", zlib.crc32(name + text)) for name, text in parts
    )


def tiff(dtype: str, value: float, photometric: int = 1) -> bytes:
    """A TIFF of one grey pixel of any number format."""
    kind = {"u": 1, "i": 2, "f": 3}[np.dtype(dtype).kind]
    pixels = np.array([value], dtype=dtype).tobytes()
    bits = 8 * len(pixels)
    tags = {256: 1, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1, 279: len(pixels), 339: kind}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, number) for tag, number in tags.items())
    start = 8 + len(pixels)
    return struct.pack("<2sHI", b"II", 42, start) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


# ---------------------------------------------------------------------------------------------- transparency

CLEAR = {
    "RGBA": encoded(plain("RGBA", (*COLOR, 0)), "PNG"),
    "WebP": encoded(plain("RGBA", (*COLOR, 0)), "WEBP", lossless=True, exact=True),
    "TIFF": encoded(plain("RGBA", (*COLOR, 0)), "TIFF"),
    "grey with alpha": encoded(plain("LA", (77, 0)), "PNG"),
    "palette": encoded(plain("RGB", COLOR).quantize(2), "PNG", transparency=b"\0\0"),
    "GIF": encoded(plain("P", 1), "GIF", transparency=1),
    "one colour": encoded(plain("RGB", COLOR), "PNG", transparency=COLOR),
    "one grey": encoded(plain("L", 77), "PNG", transparency=77),
    "one bit": png(1, 0, b"\x80", (b"tRNS", b"\0\1")),
    "two bits": png(2, 0, b"\x80", (b"tRNS", b"\0\2")),
    "four bits": png(4, 0, b"\x50", (b"tRNS", b"\0\5")),
    "16-bit grey": png(16, 0, b"\x12\x34", (b"tRNS", b"\x12\x34")),
    "16-bit colour": png(16, 2, b"\x12\x34\x56\x78\x9a\xbc", (b"tRNS", b"\x12\x34\x56\x78\x9a\xbc")),
    "16-bit alpha": png(16, 6, b"\x12\x34\x56\x78\x9a\xbc\0\0"),
}


@pytest.mark.parametrize("kind", CLEAR)
def test_a_transparent_pixel_of_any_kind_shows_the_ground_that_the_recipe_names(kind):
    for name in ("white", "black", "grey"):
        assert pixel(CLEAR[kind], PixelRule.of(Data(transparent_ground=name))) == (GROUNDS[name],) * 3
    assert pixel(CLEAR[kind], STORED) != (128,) * 3


def test_half_transparent_is_mixed_and_opaque_is_itself_to_the_bit():
    noise = np.asarray(NOISE)
    for level in (0, 1, 127, 254, 255):
        alpha = np.full((64, 64, 1), level, dtype=np.uint8)
        content = encoded(Image.fromarray(np.concatenate((noise, alpha), axis=2)), "PNG")
        expected = np.round((noise.astype(np.float64) * level + 128 * (255 - level)) / 255)
        np.testing.assert_array_equal(decode(content, GREY), expected)
        np.testing.assert_array_equal(decode(content, STORED), noise)


def test_what_lies_far_below_is_laid_on_the_ground_too():
    tall = np.zeros((700, 3, 4), dtype=np.uint8)
    assert (decode(encoded(Image.fromarray(tall), "PNG"), GREY) == 128).all()


# ---------------------------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("form", "mode"), [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("WEBP", "RGB")])
def test_an_image_is_turned_as_its_exif_says_whoever_decodes_it(form, mode, orientation):
    content = encoded(CORNERS.convert(mode), form, exif=exif(orientation))
    with Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(decode(content), np.asarray(ImageOps.exif_transpose(image).convert("RGB")))
        np.testing.assert_array_equal(decode(content, STORED), np.asarray(image.convert("RGB")))
    upright = decode(content)[16::32, 16::32, 0] / 40
    assert upright.shape == ((3, 2) if orientation >= 5 else (2, 3))


def test_a_tiff_is_turned_once():
    content = encoded(CORNERS.convert("RGB"), "TIFF", exif=exif(6))
    assert (decode(content)[16::32, 16::32, 0] / 40).tolist() == [[4, 1], [5, 2], [6, 3]]


def test_the_orientation_is_found_behind_other_segments_and_fill_bytes_and_in_either_byte_order():
    whole = encoded(NOISE, "JPEG", exif=exif(6))
    other = b"\xff\xe1\0\x0chttp://ns." + b"\xff\xff\xed\0\4ab"
    assert jpeg_orientation(whole) == jpeg_orientation(np.frombuffer(whole, dtype=np.uint8)) == 6
    assert jpeg_orientation(whole[:2] + other + whole[2:]) == 6
    for order, mark in (("<", b"II*\0"), (">", b"MM\0*")):
        block = mark + struct.pack(f"{order}IHHHIHH", 8, 1, 0x0112, 3, 1, 8, 0)
        assert exif_orientation(block) == exif_orientation(b"Exif\0\0" + block) == 8


@pytest.mark.parametrize(
    "block",
    [
        b"", b"Exif\0\0", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"XX*\0\x08\0\0\0",
        b"II*\0" + struct.pack("<IHHHIHH", 8, 1, 0x0112, 3, 1, 9, 0), b"II*\0" + struct.pack("<IHHH", 8, 1, 0x0112, 3),
    ],
)  # fmt: skip
def test_damaged_exif_turns_nothing(block):
    assert exif_orientation(block) == 1
    whole = encoded(NOISE, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block
    assert jpeg_orientation(whole[:2] + segment + whole[2:]) == 1
    for cut in (2, 3, 5, 9):
        assert jpeg_orientation(segment[:cut]) == 1


# ---------------------------------------------------------------------------------------------- ranges


@pytest.mark.parametrize(
    ("content", "level"),
    [
        (tiff("<u2", 0x8080), 128), (tiff("<u2", 0x8080, photometric=0), 127), (tiff("<u2", 65535), 255),
        (b"P5 1 1 1023 \x03\xff", 255), (b"P5 1 1 65535 \x80\x80", 128), (b"P2 1 1 7 7 ", 255), (b"P4 1 1 \0", 255),
        (png(16, 0, b"\x80\x80"), 128), (png(2, 0, b"\x80"), 170), (png(16, 4, b"\x80\x80\xff\xff"), 128),
    ],
)  # fmt: skip
def test_numbers_of_any_number_of_bits_are_scaled_by_their_own_range(content, level):
    assert pixel(content) == (level,) * 3


def test_a_tiff_of_12_bits_is_scaled_by_its_4095():
    content = bytearray(tiff("<u2", 0))
    content[content.index(struct.pack("<HHII", 258, 4, 1, 16)) + 8] = 12
    content[8:10] = b"\xff\xf0"
    assert pixel(bytes(content)) == (255,) * 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tiff("<f4", 0.5), "floating-point numbers"), (tiff("<i4", 7), "whole numbers"), (tiff("<u4", 7), "32 bits"),
        (tiff("<i2", -7), "signed"), (b"Pf 1 1 -1.0\n\0\0\0\0", "floating-point numbers"),
        (encoded(plain("LAB", (90, 9, 9)), "TIFF"), "mode LAB"),
    ],
)  # fmt: skip
def test_numbers_without_a_range_are_a_broken_image_that_says_so(tmp_path, content, said):
    (tmp_path / "x.tif").write_bytes(content)
    with pytest.raises(BrokenImageError, match=rf"^x\.tif: ValueError: .*{said}.* save it as RGB or grey"):
        FileSource(tmp_path, ["x.tif"], None, []).read(0)
    with Image.open(io.BytesIO(content)) as image, pytest.raises(BrokenImageError, match=r"^image 0: "):
        GivenImages([image]).read(0)


# ---------------------------------------------------------------------------------------------- every reader


@pytest.fixture
def files(tmp_path) -> FileSource:
    """A lying photo, one that is too large to be copied, and a picture with a clear ground."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 80, 3), dtype=np.uint8))
    contents = {
        "lying.jpg": encoded(noise, "JPEG", exif=exif(6)),
        "large.jpg": encoded(noise.resize((200, 300)), "JPEG", exif=exif(8)),
        "clear.png": CLEAR["RGBA"],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return FileSource(tmp_path, list(contents), None, [])


def written(files: FileSource, path: Path, **encoding: object) -> Path:
    write_beton(files, path, Encoding(max_side=100, **encoding), note=files.rule.as_dict())
    return path


def test_folder_file_and_given_images_have_the_same_pixels(files, tmp_path):
    read = BetonSource(written(files, tmp_path / "a.beton"))
    raw = BetonSource(written(files, tmp_path / "b.beton", mode="raw"))
    given = GivenImages([tmp_path / "lying.jpg", Image.open(tmp_path / "lying.jpg")])
    for found in (read.read(0), raw.read(0), given.read(0), given.read(1)):
        assert torch.equal(found, files.read(0))
    assert files.read(0).shape == (3, 80, 90)
    assert read.payload(0).tobytes() == (tmp_path / "lying.jpg").read_bytes()  # copied, and turned when it is read
    assert read.read(1).shape == (3, 100, 150)
    assert files.read(1).shape == (3, 200, 300)
    assert set(read.read(2).flatten().tolist()) == set(files.read(2).flatten().tolist()) == {255}


def test_a_file_written_by_another_rule_is_refused_with_the_keys_to_give(files, tmp_path):
    path = written(files, tmp_path / "a.beton")
    with pytest.raises(UserError, match=r"was written with recipe\.data\.transparent_ground=white; give that"):
        BetonSource(path, replace(files.rule, ground=0))
    files.rule = STORED
    path = written(files, tmp_path / "b.beton")
    with pytest.raises(UserError, match=r"transparent_ground=none recipe\.data\.apply_orientation=false;"):
        BetonSource(path)
    assert torch.equal(BetonSource(path, STORED).read(0), files.read(0))
    assert files.read(0).shape == (3, 90, 80)


def test_a_jpeg_that_nothing_turns_is_what_the_fast_decoder_gives():
    content = encoded(NOISE, "JPEG", exif=exif(1))
    np.testing.assert_array_equal(decode(content), simplejpeg.decode_jpeg(content))


def test_kept_features_of_other_pixels_are_not_taken(files):
    encoder = torch.nn.Flatten()
    digest = features_digest(encoder, Subset(files, np.array([0, 1])), 8, Extraction())
    files.rule = STORED
    assert features_digest(encoder, Subset(files, np.array([0, 1])), 8, Extraction()) != digest


def test_a_recipe_of_before_these_keys_resumes_with_their_defaults_and_with_what_was_done_then():
    old = to_dict(Recipe())
    for key in ("transparent_ground", "apply_orientation"):
        del old["data"][key]
    before = Recipe(data=Data(transparent_ground="none", apply_orientation=False))
    assert differences(old, Recipe()) == differences(old, before) == []
    assert differences(old, Recipe(data=Data(transparent_ground="black"))) == [
        "recipe.data.transparent_ground is 'white' there and 'black' here"
    ]
    assert len(differences(to_dict(Recipe()), before)) == 2
