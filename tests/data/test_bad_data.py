"""Bad data: whatever lies in a folder of images is told in one line, within stated bounds of memory and time.

What is wrong with a file itself makes it a broken image, named and replaced. What is wrong with the storage or this
machine ends the run: replaced, its images would make this machine's trajectory another one.
"""

import errno
import logging
import os
import resource
import shutil
import signal
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from simclr_dist.config import load_config
from simclr_dist.config.recipe import Data, Recipe
from simclr_dist.data.loading.batches import ALL_BROKEN, ViewBatches
from simclr_dist.data.loading.broken import BrokenImages, broken_files
from simclr_dist.data.loading.order import SampleOrder
from simclr_dist.data.loading.throughput import stage_seconds
from simclr_dist.data.loading.workers import load_steps
from simclr_dist.data.rendering.renderers import RENDERERS
from simclr_dist.data.sources import decoding, files
from simclr_dist.data.sources.base import BrokenImageError
from simclr_dist.data.sources.beton.encoding import Encoding
from simclr_dist.data.sources.beton.writer import write_beton
from simclr_dist.data.sources.decoding import MAX_PIXELS
from simclr_dist.data.sources.files import MAX_FILE_BYTES, FileSource
from simclr_dist.distributed.processes import Processes
from simclr_dist.errors import UserError
from simclr_dist.log import log
from simclr_dist.terminal import printable
from simclr_dist.training.pretraining import pretrain
from tests.support.forked_command import Command
from tests.support.images import COLOR, NOISE, encoded, first_pixel, opened, plain, write_image
from tests.support.processes import TINY

MEGABYTES = 24
"""Memory that a refused file may take: Pillow's modules, and nothing of the gigabytes that it promises."""


def png(width: int, height: int, *, bits: int = 8, color: int = 2, extra: bytes = b"", pixels: bytes = b"") -> bytes:
    """A PNG with any header, chunks before its pixels, and compressed pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def patched(content: bytes, mark: bytes, offset: int, put: bytes) -> bytes:
    """``content`` with other bytes at ``offset`` from where ``mark`` begins."""
    at = content.index(mark) + offset
    return content[:at] + put + content[at + len(put) :]


def jpeg(width: int, height: int) -> bytes:
    return patched(encoded(plain("RGB", COLOR), "JPEG"), b"\xff\xc0", 5, struct.pack(">HH", height, width))


def tiff(width: int, height: int, **options: object) -> bytes:
    """A TIFF of one strip whose directory promises another size."""
    content = encoded(plain("RGB", COLOR), "TIFF", **options)
    for tag, value in ((256, width), (257, height), (278, height)):
        for kind in (3, 4):  # 16 or 32 bits: made 32
            entry = struct.pack("<HHI", tag, kind, 1)
            if entry in content:
                content = patched(content, entry, 2, struct.pack("<HII", 4, 1, value))
                break
    return content


def inflating(name: bytes, head: bytes) -> bytes:
    """A PNG of one pixel with a chunk that inflates to 64 MiB."""
    return png(1, 1, extra=chunk(name, head + zlib.compress(bytes(64 << 20), 1)), pixels=zlib.compress(bytes(4)))


ANIMATED_WEBP = encoded(plain("RGBA", (*COLOR, 9)), "WEBP", save_all=True, append_images=[plain("RGBA", (0, 0, 0, 0))])
# One bit a pixel: a real image of 256 million pixels in 31 kB, a gigabyte when it is decoded.
BOMB = png(16_000, 16_000, bits=1, color=0, pixels=zlib.compress(bytes(2001 * 16_000)))
BOMBS = {
    "PNG": png(100_000, 100_000),
    "whole PNG": BOMB,
    "JPEG": jpeg(60_000, 60_000),
    "GIF": patched(encoded(plain("P", 1), "GIF"), b"GIF8", 6, b"\xff\xff\xff\xff"),
    "GIF frame": patched(encoded(plain("P", 1), "GIF"), b"\x2c\0\0\0\0", 5, b"\xff\xff\xff\xff"),
    "WebP": patched(encoded(plain("RGB", COLOR), "WEBP"), b"\x9d\x01\x2a", 3, struct.pack("<HH", 16_383, 16_383)),
    "animated WebP": patched(ANIMATED_WEBP, b"VP8X", 12, b"\xff\xff\xff\xff\xff\xff"),
    "BMP": patched(encoded(plain("RGB", COLOR), "BMP"), b"BM", 18, struct.pack("<ii", 100_000, 100_000)),
    "TIFF": tiff(100_000, 100_000),
    "compressed TIFF": tiff(100_000, 100_000, compression="tiff_lzw"),
    "PPM": b"P6 100000 100000 255\n",
}


def source_of(folder: Path, content: bytes, name: str = "x.png") -> FileSource:
    (folder / name).write_bytes(content)
    return FileSource(folder, [name], None, [])


def reason(source: FileSource) -> str:
    """Why the first image is broken: without its name, and always in one line."""
    with pytest.raises(BrokenImageError) as caught:
        source.read(0)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    name = source.printable_name(0)
    assert message.startswith(f"{name}: ")
    return message.removeprefix(f"{name}: ")


def memory_mb(key: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{key}:")[2].split()[0]) / 1024


def peak_growth(work: Callable[[], object]) -> float:
    """MB by which this process was larger, for a moment, while it worked."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory_mb("VmRSS")
    work()
    return memory_mb("VmHWM") - before


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Whatever waits for more than some seconds fails, instead of hanging the tests."""

    def give_up(*_: object) -> None:
        raise AssertionError("waited")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# ---------------------------------------------------------------------------------------------- too large


@pytest.mark.parametrize("kind", BOMBS)
def test_a_decompression_bomb_is_refused_with_its_pixels_and_the_limit_and_takes_no_memory(tmp_path, recwarn, kind):
    source = source_of(tmp_path, BOMBS[kind])
    reasons = []
    assert peak_growth(lambda: reasons.append(reason(source))) < MEGABYTES
    assert reasons[0].startswith("DecompressionBombError: ")
    assert str(MAX_PIXELS) in reasons[0]
    assert [str(warning.message) for warning in recwarn] == []  # every worker of every process would print it


@pytest.mark.parametrize("side", [10_000, 13_377, 13_378])
def test_the_limit_is_the_projects_own_and_no_size_below_it_is_warned_of(tmp_path, recwarn, monkeypatch, side):
    source, is_bomb = source_of(tmp_path, png(side, side)), side * side > MAX_PIXELS
    assert is_bomb == (side == 13_378)
    assert ("Bomb" in reason(source)) == is_bomb
    # As other modules do that share the process.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert (f"{side} x {side} pixels, more than {MAX_PIXELS}" in reason(source)) == is_bomb
    assert list(recwarn) == []


def test_the_limit_holds_for_jpegs_whoever_decodes_them(tmp_path):
    assert decoding.decode_jpeg(jpeg(13_378, 13_378)) is None
    assert "Bomb" in reason(source_of(tmp_path, jpeg(13_378, 13_378)))


@pytest.mark.parametrize(
    "content",
    [inflating(b"iCCP", b"x\0\0"), inflating(b"zTXt", b"x\0\0"), inflating(b"iTXt", b"x\0\1\0\0\0")],
    ids=["ICC profile", "text", "international text"],
)
def test_what_is_not_pixels_inflates_no_further_than_pillow_lets_it(tmp_path, content):
    source = source_of(tmp_path, content)
    assert peak_growth(lambda: reason(source)) < MEGABYTES


def test_pixels_beyond_those_of_the_header_are_not_inflated(tmp_path):
    source = source_of(tmp_path, png(1, 1, pixels=zlib.compress(bytes(64 << 20), 1)))
    assert peak_growth(lambda: source.read(0)) < MEGABYTES


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_many_frames_the_first_is_read_and_the_others_take_no_memory(tmp_path, form):
    first, *others = (Image.new("RGB", (300, 300), (number, 0, 0)) for number in range(200, 100, -1))
    options = {"WEBP": {"lossless": True}, "TIFF": {"compression": "tiff_lzw"}}.get(form, {})
    source = source_of(tmp_path, encoded(first, form, save_all=True, append_images=others, **options))
    assert peak_growth(lambda: source.read(0)) < MEGABYTES  # all of them have 27 MB
    assert first_pixel(source, 0) == (200, 0, 0)


@pytest.mark.parametrize("beginning", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"], ids=["zeros", "JPEG", "PNG"])
def test_a_file_larger_than_any_image_is_refused_unread(tmp_path, beginning, monkeypatch):
    source = source_of(tmp_path, beginning)
    os.truncate(tmp_path / "x.png", 5 << 30)
    monkeypatch.setattr(files.os, "read", None)
    assert reason(source) == f"OSError: {5 << 30} bytes, more than {MAX_FILE_BYTES}"


def test_of_a_large_file_that_is_no_image_the_beginning_is_read(tmp_path):
    source = source_of(tmp_path, b"no image")
    os.truncate(tmp_path / "x.png", MAX_FILE_BYTES)
    assert peak_growth(lambda: reason(source)) < MEGABYTES
    assert reason(source).startswith("UnidentifiedImageError: begins like none of JPEG, PNG")


@pytest.mark.parametrize("at_a_time", [1 << 30, 5000])
def test_an_image_is_read_whole_in_as_many_pieces_as_the_system_gives(tmp_path, monkeypatch, at_a_time):
    noise = torch.randint(0, 256, (200, 210, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    source = source_of(tmp_path, encoded(Image.fromarray(noise.numpy()), "PNG"))
    read = os.read
    monkeypatch.setattr(files.os, "read", lambda descriptor, size: read(descriptor, min(size, at_a_time)))
    assert torch.equal(source.read(0).permute(1, 2, 0), noise)


# ---------------------------------------------------------------------------------------------- odd files


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("renderer", ["numba", "torchvision"])
def test_an_image_of_any_shape_has_views(tmp_path, size, renderer):
    write_image(tmp_path / "1.png", size=size)
    recipe = Recipe(global_batch_images=1, data=Data(source="folder", image_size=8))
    order = SampleOrder(seed=0, images=1, global_batch_images=1)
    batch = ViewBatches(opened("folder", tmp_path), recipe, order, renderer=RENDERERS[renderer])[0]
    assert batch.broken == []
    assert batch.views["global"].shape == (1, 2, 3, 8, 8)


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket has at most 107 bytes
        listening.bind(path.name)
        os.chdir(here)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [a_fifo, a_socket, a_device, Path.mkdir])
def test_what_is_no_regular_file_is_broken_and_waits_for_nobody(tmp_path, no_waiting, make):
    make(tmp_path / "x.png")
    assert reason(FileSource(tmp_path, ["x.png"], None, [])) == "OSError: not a regular file"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "UnidentifiedImageError: empty file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "UnidentifiedImageError: begins like none of "),
        (patched(encoded(NOISE, "PNG"), b"IHDR", 1, b"X"), "UnidentifiedImageError: damaged at its beginning"),
        (png(0, 4), "UnidentifiedImageError: damaged at its beginning"),
        (b"P6 0 4 255\n", "UnidentifiedImageError: damaged at its beginning"),
        (jpeg(0, 16), "UnidentifiedImageError: damaged at its beginning"),
        (encoded(NOISE, "PNG")[:3000], "OSError: image file is truncated"),
    ],
    ids=["empty", "PostScript", "damaged header", "PNG of no width", "PPM of no width", "JPEG of no width", "cut"],
)
def test_the_reason_is_the_same_in_every_process(tmp_path, content, told):
    # Pillow would name an address in memory, or the path.
    found = reason(source_of(tmp_path, content))
    assert found.startswith(told)
    assert str(tmp_path) not in found
    assert "0x" not in found


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENAMETOOLONG], ids=errno.errorcode.get
)
def test_a_file_that_may_not_be_read_is_broken_with_the_systems_reason(tmp_path, monkeypatch, number):
    source = source_of(tmp_path, encoded(NOISE, "PNG"))
    monkeypatch.setattr(files.os, "open", failing(number))  # root reads everything
    assert reason(source).endswith(f"Error: {os.strerror(number)}")


def test_a_link_to_itself_is_broken(tmp_path):
    (tmp_path / "x.png").symlink_to("x.png")
    assert reason(opened("folder", tmp_path)) == f"OSError: {os.strerror(errno.ELOOP)}"


def failing(number: int) -> Callable[..., object]:
    def fail(*arguments: object, **_: object) -> None:
        raise OSError(number, os.strerror(number), str(arguments[0]))

    return fail


# ---------------------------------------------------------------------------------------------- not the file's fault


@pytest.mark.parametrize("call", ["open", "read", "fstat"])
@pytest.mark.parametrize(
    "number",
    [
        errno.EIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ENOTCONN,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EREMOTEIO,
    ],
    ids=errno.errorcode.get,
)
def test_an_error_of_the_storage_is_no_broken_image_but_ends_the_run_in_one_line(tmp_path, monkeypatch, number, call):
    source = source_of(tmp_path, encoded(NOISE, "PNG"), "new\nline.png")
    with monkeypatch.context() as patch:
        patch.setattr(files.os, call, failing(number))
        with pytest.raises(UserError) as caught:
            source.read(0)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/new\\nline.png: cannot be read: {os.strerror(number)}; ")
    assert len(message.splitlines()) == 1
    assert source.read(0).shape == (3, 64, 64)


def test_an_error_of_the_storage_in_a_loader_worker_reaches_the_user_in_one_line(tmp_path, monkeypatch):
    for number in range(4):
        write_image(tmp_path / f"{number}.png")
    order = SampleOrder(seed=0, images=4, global_batch_images=4)
    recipe = Recipe(global_batch_images=4, data=Data(source="folder", image_size=8))
    monkeypatch.setattr(files.os, "read", failing(errno.EIO))  # the worker is a copy of this process
    with pytest.raises(UserError) as caught:
        list(load_steps(ViewBatches(opened("folder", tmp_path), recipe, order), range(4), workers=1, pin_memory=False))
    message = str(caught.value)
    assert message.startswith(str(tmp_path))
    assert f".png: cannot be read: {os.strerror(errno.EIO)}; " in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("where", ["decode", "read_image_file"])
def test_too_little_memory_is_no_broken_image(tmp_path, monkeypatch, where):
    def fail(*_: object) -> None:
        raise MemoryError

    source = source_of(tmp_path, encoded(NOISE, "PNG"))
    monkeypatch.setattr(files, where, fail)
    with pytest.raises(UserError, match=r"x\.png: not enough memory to read it; give the job more"):
        source.read(0)


def test_when_the_folder_itself_is_gone_not_every_image_is_broken(tmp_path):
    # A share that is no longer mounted.
    write_image(tmp_path / "share" / "cat" / "1.png")
    source = opened("folder", tmp_path / "share")
    shutil.rmtree(tmp_path / "share" / "cat")
    assert "No such file" in reason(source)
    shutil.rmtree(tmp_path / "share")
    with pytest.raises(UserError, match=f"^{tmp_path}/share: cannot be read: No such file or directory; "):
        source.read(0)


def test_a_folder_that_cannot_be_listed_is_refused_and_not_passed_over(tmp_path, monkeypatch):
    for name in ("cat", "dog"):
        write_image(tmp_path / name / "1.png")
    listed = os.scandir

    def refusing(folder: str | Path) -> object:
        return failing(errno.EACCES)(folder) if str(folder).endswith("dog") else listed(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"^recipe\.data\.path: .*/dog cannot be listed: Permission denied; make it"):
        opened("folder", tmp_path)
    (tmp_path / "dog").rename(tmp_path / "lost+found")  # as on every disk, readable for root alone
    assert len(opened("folder", tmp_path)) == 1


# ---------------------------------------------------------------------------------------------- what counts and names


def bad_folder(folder: Path) -> tuple[Path, list[bytes]]:
    """Images of every kind, and the names of those among them that are broken."""
    folder.mkdir()
    for number in range(24):
        write_image(folder / f"good {number:02}.png", (10 * number, 90, 30), (40, 30))
    good = {
        b"16 bits.png": encoded(Image.new("I;16", (9, 9), 30_000), "PNG"),
        b"CMYK.jpg": encoded(plain("CMYK", (0, 9, 99, 0)), "JPEG"),
        b"animated.gif": encoded(plain("P", 1), "GIF", save_all=True, append_images=[plain("P", 2)]),
        b"good \xff\xfe\n.png": encoded(NOISE, "PNG"),
        b"misnamed.png": encoded(NOISE, "JPEG"),
    }
    bad = {
        b"bomb header.jpg": BOMBS["JPEG"],
        b"bomb.png": BOMB,
        b"cut.jpg": encoded(NOISE, "JPEG")[:1500],
        b"cut.png": encoded(NOISE, "PNG")[:3000],
        b"empty.webp": b"",
        b"inflating.png": inflating(b"iCCP", b"x\0\0"),
        b"text \xff\t\n\x1b[31m%s.tif": b"hello, I am text\n",
    }
    for name, content in (good | bad).items():
        (folder / os.fsdecode(name)).write_bytes(content)
    os.mkfifo(folder / "fifo.gif")
    (folder / "huge.jpg").write_bytes(b"\xff\xd8\xff")
    os.truncate(folder / "huge.jpg", 5 << 30)
    (folder / "link.png").symlink_to("nowhere")
    return folder, sorted([*bad, b"fifo.gif", b"huge.jpg", b"link.png"])


def runs(arguments: list[str]) -> None:
    """Prints of each run the peak memory of this process and of its workers so far, in MB, or why it was stopped."""
    folder, *tiny = arguments

    def run(name: str, images: str, *overrides: str) -> None:
        where = (f"machine.run_dir={folder}/{name}", f"recipe.data.path={folder}/{images}")
        try:
            pretrain(load_config(f"{folder}/config.yaml", [*tiny, *where, *overrides]), Processes())
        except UserError as error:
            print(f"stopped: {error}")
        else:
            both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
            print(*(resource.getrusage(who).ru_maxrss // 1024 for who in both))

    run("whole run", "whole")
    for stop_after in (2, 0):
        run("bad run", "bad", f"machine.stop_after_steps={stop_after}", "machine.max_broken_image_share=0.3")
    run("strict run", "bad", "machine.max_broken_image_share=0.2")


def test_a_run_names_every_bad_file_once_over_its_starts_and_stops_beyond_the_share_within_its_memory(tmp_path):
    folder, bad = bad_folder(tmp_path / "bad")
    images = len(list(folder.iterdir()))
    for number in range(images):
        write_image(tmp_path / "whole" / f"{number}.png", size=(40, 30))
    assert images % 13 == 0  # so that an epoch is all of them
    (tmp_path / "config.yaml").write_text("recipe: {}\n")
    tiny = [
        *TINY, "recipe.data.source=folder", "recipe.global_batch_images=13", "recipe.batch_norm_group_images=13",
        "machine.loader_workers=2",
    ]  # fmt: skip
    done = Command(tmp_path, [str(tmp_path), *tiny], runs)
    output, errors = done.communicate()
    assert done.poll() == 0, errors
    whole, first, second, strict = output.splitlines()
    before, after = ([int(word) for word in line.split()] for line in (whole, second))
    assert all(late - early < 150 for early, late in zip(before, after, strict=True)), output
    assert not first.startswith("stopped")

    listed = [line.split("\t") for line in (tmp_path / "bad run" / "broken_images.txt").read_text().splitlines()]
    names = [printable(os.fsdecode(name)) for name in bad]
    assert sorted(reason.rpartition(": ")[0].partition(": ")[0] for _, reason in listed) == sorted(names)
    assert len({number for number, _ in listed}) == len(bad)
    assert all(reason.isprintable() for _, reason in listed)
    assert "Warning" not in errors
    told = [line for line in errors.splitlines() if line.startswith("broken image, ")]
    assert sorted(told[: len(bad)]) == sorted(f"broken image, another is drawn in its place: {r}" for _, r in listed)

    assert f"of {images} images are broken, more than machine.max_broken_image_share (0.2)" in strict
    assert 0.2 * images < int(strict.split()[1]) <= len(bad)


@pytest.mark.parametrize("workers", [0, 2])
def test_data_write_counts_and_names_the_same_files(tmp_path, no_waiting, workers):
    folder, bad = bad_folder(tmp_path / "bad")
    source = opened("folder", folder)
    written = write_beton(source, tmp_path / "a.beton", Encoding(), workers=workers, max_broken_share=0.3)
    assert [reason.partition(": ")[0] for reason in written.left_out] == [printable(os.fsdecode(n)) for n in bad]
    assert written.sidecar.facts["images"] == len(source) - len(bad)


def test_data_write_stops_with_one_line_when_the_storage_fails(tmp_path, monkeypatch):
    folder, _ = bad_folder(tmp_path / "bad")
    source = opened("folder", folder)
    monkeypatch.setattr(files, "read_image_file", failing(errno.EIO))
    with pytest.raises(UserError, match=r"^\S+/16 bits\.png: cannot be read: "):
        write_beton(source, tmp_path / "a.beton", Encoding(), max_broken_share=1)
    assert list(tmp_path.glob("*.beton*")) == []


def test_the_stages_of_the_loader_are_measured_beside_broken_images(tmp_path):
    folder, _ = bad_folder(tmp_path / "bad")
    source = opened("folder", folder)
    order = SampleOrder(seed=0, images=len(source), global_batch_images=len(source))
    recipe = Recipe(global_batch_images=len(source), data=Data(source="folder", image_size=8))
    assert stage_seconds(ViewBatches(source, recipe, order), len(source))["read and decode"] > 0
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="all images tried are broken, the last one "):
        stage_seconds(ViewBatches(source, recipe, order), 3)


def test_a_line_half_written_is_no_other_image_and_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "broken_images.txt"
    BrokenImages(tmp_path, 1000, 0.5).note([(7, "a"), (123, "b")], write=True)
    path.write_text(path.read_text() + "12")  # of 123, or 1234: a full disk
    again = BrokenImages(tmp_path, 1000, 0.5)
    assert again.met == {7, 123}
    again.note([(12, "c"), (7, "a")], write=True)
    assert BrokenImages(tmp_path, 1000, 0.5).met == {7, 123, 12}
    assert path.read_text().splitlines()[-1] == "12\tc"


def test_broken_images_are_known_by_their_names_where_images_came_to_the_folder_or_went_since(tmp_path):
    for name in ("b.png", "c: d.png", "e.png"):
        write_image(tmp_path / "images" / name)
    noted = [(0, "b.png: OSError: cut"), (1, "c: d.png: OSError: cut"), (2, "e.png: OSError: cut")]
    BrokenImages(tmp_path, 3, 1.0).note(noted, write=True)
    recipe = Recipe(data=Data(source="folder", path=str(tmp_path / "images")))
    write_image(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "e.png").unlink()
    assert broken_files(tmp_path, recipe) == {str(tmp_path / "images" / name) for name in ("b.png", "c: d.png")}


@pytest.mark.parametrize("number", [None, errno.EACCES, errno.ESTALE])
def test_a_list_of_broken_images_that_cannot_be_read_now_is_one_line_and_not_an_empty_list(
    tmp_path, monkeypatch, number
):
    path = tmp_path / "broken_images.txt"
    path.mkdir()
    if number:
        monkeypatch.setattr(Path, "open", failing(number))
        monkeypatch.setattr(Path, "stat", failing(number))
    said = f"^{path}: cannot be read: {os.strerror(number or errno.EISDIR)}; the list may be intact"
    with pytest.raises(UserError, match=said):
        BrokenImages(tmp_path, 1000, 0.5)
    with pytest.raises(UserError, match=said):
        broken_files(tmp_path, Data(source="folder"))


def test_an_image_that_nothing_could_replace_ends_the_run_until_it_is_mended(tmp_path):
    broken = BrokenImages(tmp_path, 1000, 0.5)
    broken.note([(7, "a"), (ALL_BROKEN, "all were broken")], write=True)
    assert "an image is broken, and so is every one that was drawn in its place; 1 of 1000" in (broken.too_many() or "")
    assert BrokenImages(tmp_path, 1000, 0.5).too_many() is None  # started again: it is looked at anew


def test_the_count_of_broken_images_is_told_at_the_end_and_only_when_there_are_some(tmp_path):
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    log.addHandler(handler)
    broken = BrokenImages(tmp_path, 1000, 0.5)
    broken.tell_count()
    assert heard == []
    broken.note([(7, "a"), (8, "b"), (ALL_BROKEN, "c")], write=False)
    broken.tell_count()
    log.removeHandler(handler)
    assert heard == [f"2 of 1000 images were broken, and others drawn in their place: {tmp_path}/broken_images.txt"]
