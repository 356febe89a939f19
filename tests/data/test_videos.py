"""Videos: every frame at its place, in any order and process; cameras, and what is no video."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from simclr_dist.config.recipe import Data, Recipe
from simclr_dist.data.loading.broken import BrokenImages, broken_files
from simclr_dist.data.sources import video_files
from simclr_dist.data.sources.base import BrokenImageError
from simclr_dist.data.sources.whole import image_name, without
from simclr_dist.errors import UserError
from tests.support.images import opened

av = pytest.importorskip("av", reason="the extra `video` is not installed")

FRAMES, KEYS = 30, 8


def write_video(
    path: Path, frames: int = FRAMES, codec: str = "mpeg4", pixels: str = "yuv420p", noise: int = 1
) -> None:
    """Frame k has a white bar of k + 1 columns, before noise; between key frames they stand out of order."""
    ground = np.random.default_rng(0).integers(0, noise, (32, 48, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.bit_rate = 4_000_000
        stream.width, stream.height, stream.pix_fmt = 48, 32, pixels
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = KEYS, 2 * codec.startswith("mpeg")
        for number in range(frames):
            picture = ground.copy()
            picture[:, : number + 1] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def decoded(path: Path) -> list[np.ndarray]:
    """All frames of a file, one after another."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def read(source: object, sample: int) -> np.ndarray:
    return source.read(sample).permute(1, 2, 0).numpy()


def orders() -> Iterator[list[int]]:
    """In a row, backwards, and at random."""
    yield list(range(FRAMES))
    yield list(reversed(range(FRAMES)))
    yield np.random.default_rng(0).permutation(FRAMES).tolist()


# A seek in an mpg may come out in the middle of a frame, which then has the time of another.
@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "mpeg4"), ("avi", "mpeg4"), ("mkv", "mpeg4"), ("mpg", "mpeg2video")]
)
def test_every_frame_is_read_whatever_the_order(tmp_path, suffix, codec):
    write_video(tmp_path / f"a.{suffix}", codec=codec)
    source, expected = opened("videos", tmp_path), decoded(tmp_path / f"a.{suffix}")
    assert len(source) == len(expected) == FRAMES
    assert source.read(0).shape == (3, 32, 48)
    assert np.diff([each.mean() for each in expected]).min() > 0
    for order in orders():
        for sample in order:
            assert np.array_equal(read(source, sample), expected[sample])


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [("a.avi", "mjpeg", "yuvj420p"), ("a.mpg", "mpeg2video", "yuv420p"), ("a.webm", "libvpx", "yuv420p")],
)
def test_what_is_made_of_a_damaged_frame_does_not_depend_on_what_was_read_before_it(tmp_path, name, codec, pixels):
    write_video(tmp_path / name, codec=codec, pixels=pixels, noise=80)
    content = bytearray((tmp_path / name).read_bytes())
    for place in range(len(content) // 5, len(content), len(content) // 12):
        content[place] ^= 0x5A
    (tmp_path / name).write_bytes(content)

    def found(order: list[int]) -> dict[int, bytes | None]:
        source = opened("videos", tmp_path)
        frames: dict[int, bytes | None] = dict.fromkeys(order)
        for sample in order:
            with suppress(BrokenImageError):
                frames[sample] = read(source, sample).tobytes()
        return frames

    one, *others = (found([sample for sample in order if sample < FRAMES - 2]) for order in orders())
    assert others == [one, one]


def test_a_file_is_a_sequence_and_files_of_cameras_are_one(tmp_path):
    for name in ("pour_view0", "pour_view1", "other"):
        write_video(tmp_path / f"{name}.mp4", 3)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "no.mp4").write_bytes(b"not a video")
    source = opened("videos", tmp_path)
    assert (source.times.sequence.tolist(), source.times.frame.tolist()) == ([0] * 3 + [1] * 6, [0, 1, 2] * 3)
    assert source.times.camera.tolist() == [0] * 6 + [1] * 3
    assert [round(48 * read(source, sample).mean() / 255) - 1 for sample in range(9)] == [0, 1, 2] * 3
    assert "no.mp4: no video that can be read" in source.remarks[-1]
    assert source.name(4) == image_name(source, 4) == "pour_view0.mp4:1"


@pytest.mark.parametrize("other", ["a.avi", "a_view0.mkv"])
def test_two_videos_of_one_sequence_and_camera_are_refused(tmp_path, other):
    for name in ("a.mp4", other, "a_view1.mp4"):
        write_video(tmp_path / name, 3)
    one, two = sorted(("a.mp4", other))
    with pytest.raises(UserError, match=f"recipe.data.path: {one} and {two} are both camera 0 of one sequence"):
        opened("videos", tmp_path)


def test_a_copy_has_the_fingerprint_of_its_original_and_a_longer_video_another(tmp_path):
    for folder in ("one", "copy", "longer"):
        write_video(tmp_path / folder / "a.mp4", 4 if folder == "longer" else 3)
    one, copy, longer = (opened("videos", tmp_path / each).fingerprint() for each in ("one", "copy", "longer"))
    assert one == copy != longer


def test_a_video_that_ends_early_has_broken_frames_and_whole_ones(tmp_path):
    write_video(tmp_path / "a.mkv")
    source, expected = opened("videos", tmp_path), decoded(tmp_path / "a.mkv")
    content = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(content[: len(content) // 2])
    assert np.array_equal(read(source, 0), expected[0])
    with pytest.raises(BrokenImageError, match=r"a\.mkv:29: "):
        source.read(FRAMES - 1)
    assert np.array_equal(read(source, 1), expected[1])


def test_evaluation_leaves_frames_out_that_the_run_found_broken(tmp_path):
    write_video(tmp_path / "a.mkv", 4)
    write_video(tmp_path / "b.mkv", 3)
    recipe = Recipe(data=Data(source="videos", path=str(tmp_path)))
    source = opened("videos", tmp_path)
    BrokenImages(tmp_path, len(source), 1.0).note([(2, f"{source.name(2)}: why"), (5, "b.mkv:1: why")], write=True)
    kept = without(source, broken_files(tmp_path, recipe))
    times = [*zip(kept.times.sequence.tolist(), kept.times.frame.tolist(), strict=True)]
    assert times == [(0, 0), (0, 1), (0, 3), (1, 0), (1, 2)]


def test_a_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no videos in .*looked for \.mp4"):
        opened("videos", tmp_path)


def test_a_frame_that_the_decoder_gave_before_an_earlier_one_is_found_after_it(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mkv")
    source = opened("videos", tmp_path)
    expected = read(opened("videos", tmp_path), FRAMES - 1)
    in_order = video_files.VideoDecoder._decoded

    def last_ones_swapped(decoder: object, start: int | None) -> Iterator[object]:
        *frames, last_but_one, last = in_order(decoder, start)
        yield from (*frames, last, last_but_one)

    monkeypatch.setattr(video_files.VideoDecoder, "_decoded", last_ones_swapped)
    source.read(FRAMES - 2)
    assert np.array_equal(read(source, FRAMES - 1), expected)
