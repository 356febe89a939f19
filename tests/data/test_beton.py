"""Data in one file: what is read is what was written, damage is never read, ffcv reads and writes the same files."""

import errno
import fcntl
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from simclr_dist.config.recipe import Data
from simclr_dist.data.sources.base import ArraySource, BrokenImageError, ImageSource
from simclr_dist.data.sources.beton import check, encode, sidecar
from simclr_dist.data.sources.beton.check import check_file, seal_file
from simclr_dist.data.sources.beton.encoding import MODES, Encoding
from simclr_dist.data.sources.beton.format import HEADER, PAGE_BYTES, read_table
from simclr_dist.data.sources.beton.source import BetonSource
from simclr_dist.data.sources.beton.writer import write_beton
from simclr_dist.data.sources.files import FileSource
from simclr_dist.data.sources.folders import find_images
from simclr_dist.errors import UserError
from simclr_dist.storage import sealed_json
from simclr_dist.storage.flocks import is_held
from tests.support.images import open_source
from tests.support.shards import indexed, write_tar

RAW = Encoding(mode="raw")
CLASSES = ["ant", "bee", "cat"]


def smooth(count: int, side: int, seed: int = 0) -> np.ndarray:
    """Images (n, 3, side, side) that a JPEG keeps well: waves of colour."""
    random = np.random.default_rng(seed)
    phase = random.uniform(0, 6, (count, 3, 1, 1)) + np.linspace(0, 3, side)[:, None] * random.uniform(1, 2)
    return (128 + 90 * np.sin(phase + np.linspace(0, 2, side))).astype(np.uint8)


def arrays(count: int = 20, side: int = 24, seed: int = 0) -> ArraySource:
    return ArraySource(smooth(count, side, seed), np.arange(count) % 3, CLASSES)


def jpeg(path: Path, width: int, height: int, seed: int = 0, **options: object) -> None:
    pixels = smooth(1, max(width, height), seed)[0].transpose(1, 2, 0)[:height, :width]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", **options)


def folder_source(root: Path) -> FileSource:
    return FileSource(root, find_images(root).names, None, [])


def complaint(function, *arguments, **options) -> str:
    """The one line of the UserError."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.fixture
def written(tmp_path) -> Path:
    path = tmp_path / "a.beton"
    write_beton(arrays(), path, Encoding(mode="jpeg"))
    return path


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


# ---------------------------------------------------------------------------------------------- what is read


def test_raw_images_come_back_to_the_bit_with_labels_and_classes(tmp_path):
    source = arrays()
    write_beton(source, tmp_path / "a.beton", RAW)
    read = BetonSource(tmp_path / "a.beton")
    assert (len(read), read.classes) == (20, CLASSES)
    np.testing.assert_array_equal(read.labels, source.labels)
    for sample in range(20):
        assert torch.equal(read.read(sample), source.read(sample))
        read.read(sample).add_(1)  # its memory is its own


def test_jpegs_come_back_within_their_error(written):
    source, read = arrays(), BetonSource(written)
    for sample in range(20):
        image = read.read(sample)
        assert (image.dtype, image.shape) == (torch.uint8, (3, 24, 24))
        assert (image.float() - source.read(sample).float()).abs().mean() < 4


def test_images_without_labels_have_none(tmp_path):
    write_beton(ArraySource(smooth(3, 8), None, []), tmp_path / "a.beton", RAW)
    read = BetonSource(tmp_path / "a.beton")
    assert (read.labels, read.classes) == (None, [])


@pytest.mark.parametrize("mode", MODES)
def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path, mode):
    jpeg(tmp_path / "in" / "a.jpg", 90, 70)
    for number in range(40):
        jpeg(tmp_path / "in" / f"b{number}.jpg", 20 + number, 60, seed=number)
    for workers in (0, 1, 2):
        write_beton(
            folder_source(tmp_path / "in"), tmp_path / str(workers), Encoding(mode=mode, max_side=40), workers=workers
        )
    assert len({(tmp_path / str(workers)).read_bytes() for workers in (0, 1, 2)}) == 1
    assert len({(tmp_path / f"{workers}.json").read_bytes() for workers in (0, 1, 2)}) == 1


def test_the_shorter_side_is_cut_to_max_side_and_smaller_images_are_left_alone(tmp_path):
    jpeg(tmp_path / "in" / "a.jpg", 300, 200)
    jpeg(tmp_path / "in" / "b.jpg", 200, 500)
    jpeg(tmp_path / "in" / "c.jpg", 99, 120)
    write_beton(folder_source(tmp_path / "in"), tmp_path / "a.beton", Encoding(max_side=100))
    read = BetonSource(tmp_path / "a.beton")
    assert [tuple(read.read(sample).shape) for sample in range(3)] == [(3, 100, 150), (3, 250, 100), (3, 120, 99)]
    write_beton(folder_source(tmp_path / "in"), tmp_path / "b.beton", Encoding(max_side=0))
    assert BetonSource(tmp_path / "b.beton").read(1).shape == (3, 500, 200)


@pytest.mark.parametrize("options", [{"quality": 70}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_that_is_small_enough_is_copied_so_no_quality_is_lost(tmp_path, options):
    jpeg(tmp_path / "in" / "a.jpg", 90, 80, **options)
    source = folder_source(tmp_path / "in")
    write_beton(source, tmp_path / "a.beton", Encoding(max_side=80, quality=10))
    read = BetonSource(tmp_path / "a.beton")
    assert read.payload(0).tobytes() == (tmp_path / "in" / "a.jpg").read_bytes()
    assert torch.equal(read.read(0), source.read(0))


def test_a_jpeg_in_a_shard_is_copied_too(tmp_path):
    jpeg(tmp_path / "in" / "a.jpg", 90, 80, quality=70)
    content = (tmp_path / "in" / "a.jpg").read_bytes()
    write_tar(tmp_path / "tars" / "a.tar", {"a.jpg": content})
    indexed(tmp_path / "tars", tmp_path / "index")
    source = open_source(Data(source="webdataset", path=str(tmp_path / "index")))
    write_beton(source, tmp_path / "a.beton", Encoding(max_side=80, quality=10))
    assert BetonSource(tmp_path / "a.beton").payload(0).tobytes() == content


def test_a_jpeg_of_four_inks_and_a_png_are_encoded_as_rgb(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("CMYK", (80, 80), (0, 200, 100, 0)).save(tmp_path / "in" / "a.jpg")
    Image.new("RGB", (80, 80), (9, 200, 30)).save(tmp_path / "in" / "b.png")
    source = folder_source(tmp_path / "in")
    write_beton(source, tmp_path / "a.beton", Encoding())
    read = BetonSource(tmp_path / "a.beton")
    assert read.facts["jpegs"] == 2
    for sample in range(2):
        assert (read.read(sample).float() - source.read(sample).float()).abs().max() <= 4


def test_auto_stores_small_images_raw_and_large_ones_as_jpegs(tmp_path):
    for side, jpegs in ((64, 0), (65, 2)):
        result = write_beton(arrays(2, side), tmp_path / f"{side}.beton", Encoding(mode="auto"))
        assert result.sidecar.facts["jpegs"] == jpegs


def test_no_payload_crosses_a_page_as_ffcv_reads_page_by_page(tmp_path):
    count, side = 7, 1000
    write_beton(ArraySource(smooth(count, side), None, []), tmp_path / "a.beton", Encoding(mode="raw", max_side=0))
    table = read_table(tmp_path / "a.beton")
    assert table.file_bytes > 2 * PAGE_BYTES
    assert (table.pointers // PAGE_BYTES == (table.pointers + table.sizes - 1) // PAGE_BYTES).all()


def test_the_fingerprint_is_of_the_contents_wherever_the_file_stands(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        write_beton(arrays(seed=seed), tmp_path / name / "x.beton", RAW)
    a, b, c = (BetonSource(tmp_path / name / "x.beton").fingerprint() for name in "abc")
    assert a == b != c


def test_a_source_can_be_pickled_and_forked_after_it_was_read(written):
    source = BetonSource(written)
    first = source.read(0)
    assert torch.equal(pickle.loads(pickle.dumps(source)).read(0), first)
    loaded = list(DataLoader(Indexed(source), batch_size=None, num_workers=2))
    assert all(torch.equal(image, source.read(sample)) for sample, image in enumerate(loaded))


class Indexed(torch.utils.data.Dataset):
    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, sample: int) -> torch.Tensor:
        return self.source.read(sample)


def test_splits_are_the_files_of_a_folder_and_pretraining_falls_back_to_train(tmp_path):
    for count, split in ((4, "train"), (5, "test"), (6, "pretrain")):
        for path in (tmp_path, tmp_path / "train.beton"):
            data = Data(source="beton", path=str(path))
            if split == "pretrain":
                assert len(open_source(data)) == 4
            elif split == "train":
                assert str(tmp_path) in complaint(open_source, data, split)
            else:
                assert "test.beton" in complaint(open_source, data, split)
        write_beton(arrays(count), tmp_path / f"{split}.beton", RAW)
    data = Data(source="beton", path=str(tmp_path))
    assert [len(open_source(data, split)) for split in ("train", "test", "pretrain")] == [4, 5, 6]
    beside = Data(source="beton", path=str(tmp_path / "train.beton"))
    assert [len(open_source(beside, split)) for split in ("train", "test", "pretrain")] == [4, 5, 4]


def test_a_single_file_of_another_name_is_not_taken_for_an_evaluation_split(tmp_path):
    for name in ("photos", "test"):
        write_beton(arrays(), tmp_path / f"{name}.beton", RAW)
    data = Data(source="beton", path=str(tmp_path / "photos.beton"))
    assert len(open_source(data)) == 20
    assert "single file" in complaint(open_source, data, "test")


# ---------------------------------------------------------------------------------------------- damage


def assert_refused(run, path: Path) -> None:
    message = complaint(BetonSource, path)
    assert str(path) in message
    status, out, err = run("data", "check", path)
    assert (status, out) == (2, "")
    assert str(path) in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("share", [0.0, 0.02, 0.4, 0.9, 0.9999])
def test_a_file_that_was_cut_is_refused(run, written, share):
    os.truncate(written, int(written.stat().st_size * share))
    assert_refused(run, written)


def test_a_file_with_one_flipped_bit_anywhere_is_refused(run, written):
    size, table = written.stat().st_size, read_table(written)
    payload, padding = int(table.pointers[3]) + 50, int(table.pointers[0]) - 3
    random = np.random.default_rng(5).integers(0, size, 14).tolist()
    for at in [0, 2, 4, 8, 16, payload, padding, size - 1, *random]:
        flip(written, at)
        message = complaint(BetonSource, written)
        assert str(written) in message, at
        flip(written, at)
    flip(written, payload)
    assert_refused(run, written)
    flip(written, payload)
    BetonSource(written)


def test_a_large_file_is_checked_at_its_ends_at_once_and_everywhere_in_full(monkeypatch, tmp_path, run):
    written = tmp_path / "a.beton"
    write_beton(arrays(200), written, Encoding(mode="jpeg"))
    for module in (check, sidecar):
        monkeypatch.setattr(module, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(check, "QUICK_BYTES", 8192)
    sidecar.path_of(written).unlink()
    seal_file(written)
    table = read_table(written)
    inner = int(table.pointers[np.searchsorted(table.pointers, 10 * 4096)]) + 60
    flip(written, inner)
    source = BetonSource(written)  # the middle is not read
    flip(written, 6010)  # a label in a block that is not read either
    assert "table" in complaint(BetonSource, written)
    flip(written, 6010)
    assert "damaged" in complaint(check_file, written, full=True)
    assert run("data", "check", written)[0] == 0
    assert run("data", "check", "--full", written)[0] == 2
    hurt = int(np.searchsorted(table.pointers, inner, side="right")) - 1
    assert f"image {hurt} was damaged" in complaint(source.read, hurt)
    source.read(hurt - 1)


def test_a_file_with_more_at_its_end_is_refused(run, written):
    size = written.stat().st_size
    with written.open("ab") as file:
        file.write(bytes(24))
    assert f"but {size} were written" in complaint(BetonSource, written)
    assert_refused(run, written)


@pytest.mark.parametrize("content", [b"", b"x", b"PNG" * 1000, bytes(5000)])
def test_a_file_of_something_else_is_refused(run, written, content):
    written.write_bytes(content)
    assert_refused(run, written)


def test_a_file_of_another_version_of_the_format_is_refused(run, written):
    content = bytearray(written.read_bytes())
    np.frombuffer(content, HEADER, 1)["version"][0] = 3
    written.write_bytes(content)
    assert "its header says 3" in complaint(BetonSource, written)
    assert_refused(run, written)


def test_a_header_that_promises_more_images_than_memory_holds_is_refused_at_once(written):
    content = bytearray(written.read_bytes())
    np.frombuffer(content, HEADER, 1)["images"][0] = 2**60
    written.write_bytes(content)
    assert "1152921504606846976 images" in complaint(BetonSource, written)


def test_a_pointer_out_of_the_file_is_refused_even_when_the_file_is_sealed(written):
    table = read_table(written)
    content = bytearray(written.read_bytes())
    at = content.find(int(table.pointers[2]).to_bytes(8, "little"))
    content[at : at + 8] = (2**63 + 5).to_bytes(8, "little")
    written.write_bytes(content)
    sidecar.path_of(written).unlink()
    assert "image 2" in complaint(seal_file, written)


def test_sealing_never_blesses_a_file_that_has_a_sidecar(written):
    flip(written, int(read_table(written).pointers[3]) + 50)
    before = sidecar.path_of(written).read_bytes()
    assert "data check" in complaint(seal_file, written)
    assert sidecar.path_of(written).read_bytes() == before


def test_a_sealed_file_reads_as_before_with_numbers_for_class_names(written):
    before = BetonSource(written)
    sidecar.path_of(written).unlink()
    seal_file(written)
    source = BetonSource(written)
    assert (source.classes, source.fingerprint()) == (["0", "1", "2"], before.fingerprint())
    np.testing.assert_array_equal(source.labels, before.labels)


def test_sealing_refuses_a_payload_that_is_no_jpeg(written):
    sidecar.path_of(written).unlink()
    with written.open("r+b") as file:
        file.seek(int(read_table(written).pointers[9]))
        file.write(bytes(200))
    assert "image 9 is no JPEG" in complaint(seal_file, written)


def test_a_file_without_its_sidecar_is_refused_with_the_cure(run, written):
    sidecar.path_of(written).unlink()
    assert f"data seal {written}" in complaint(BetonSource, written)
    assert_refused(run, written)


def test_a_sidecar_of_another_file_is_refused(run, tmp_path, written):
    write_beton(arrays(seed=1), tmp_path / "b.beton", RAW)
    write_beton(arrays(seed=2), tmp_path / "c.beton", RAW)  # of the same size and table as b
    shutil.copy(sidecar.path_of(tmp_path / "b.beton"), sidecar.path_of(written))
    assert_refused(run, written)
    shutil.copy(sidecar.path_of(tmp_path / "b.beton"), sidecar.path_of(tmp_path / "c.beton"))
    assert_refused(run, tmp_path / "c.beton")


def test_a_damaged_sidecar_is_refused(written):
    path = sidecar.path_of(written)
    intact = path.read_bytes()
    for at in np.random.default_rng(1).integers(0, len(intact), 20).tolist():
        flip(path, at)
        if path.read_bytes().split() != intact.split():  # white space between values means nothing
            assert str(path) in complaint(BetonSource, written), at
        path.write_bytes(intact)
    for content in (b"", b"{}", b"[]", b"null", intact[:-40], b"\xff\xfe"):
        path.write_bytes(content)
        assert str(path) in complaint(BetonSource, written)


@pytest.mark.parametrize(
    "change",
    [
        *({key: value} for key in ("images", "file_bytes", "widths", "written", "classes") for value in (None, 1.5)),
        {"widths": [1]}, {"heights": [1, "x"]}, {"images": 3}, {"images": -1}, {"labelled": 1}, {"format": True},
        {"classes": ["a"]}, {"classes": [1] * 10}, {"crc32": "AAAA"}, {"blocks_sha256": ""}, {"file_bytes": -1},
        {"table_sha256": ["x"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_sidecar_of_a_wrong_form_is_refused_though_its_checksum_is_right(written, change):
    path = sidecar.path_of(written)
    content = json.loads(path.read_text()) | change
    del content["sha256"]
    path.write_text(json.dumps({**content, "sha256": sealed_json.digest(content)}))
    assert str(written) in complaint(BetonSource, written)
    if change != {"classes": ["a"]}:  # which the file alone contradicts
        assert str(written) in complaint(sidecar.load_sidecar, written)


def test_a_sidecar_nested_without_end_and_one_without_a_key_are_refused(written):
    path = sidecar.path_of(written)
    content = json.loads(path.read_text())
    path.write_text("[" * 100_000)
    assert str(path) in complaint(BetonSource, written)
    for key in ("written", "jpegs", "labelled", "widths"):
        short = {name: value for name, value in content.items() if name not in (key, "sha256")}
        path.write_text(json.dumps({**short, "sha256": sealed_json.digest(short)}))
        assert str(path) in complaint(BetonSource, written)


def test_a_sidecar_of_a_newer_version_asks_for_an_update(written):
    path = sidecar.path_of(written)
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    assert "update to read it" in complaint(BetonSource, written)


def test_a_payload_damaged_after_opening_is_an_error_and_not_a_broken_image(written):
    source = BetonSource(written)
    flip(written, int(read_table(written).pointers[7]) + 100)
    message = complaint(source.read, 7)
    assert str(written) in message
    assert "image 7" in message
    source.read(6)


def test_damage_met_in_a_loader_worker_is_the_same_one_line(written):
    source = BetonSource(written)
    flip(written, int(read_table(written).pointers[7]) + 100)
    try:
        source.read(7)
    except UserError:
        # What DataLoader does with a worker's error; a whole loader would take five seconds to end.
        passed_on = ExceptionWrapper(where="in DataLoader worker process 0")
    assert complaint(passed_on.reraise) == complaint(source.read, 7)


def test_a_file_cut_while_it_is_open_is_an_error_and_no_signal(written):
    source = BetonSource(written)
    source.read(0)
    os.truncate(written, 5000)
    assert "image 19" in complaint(source.read, 19)


def test_a_file_replaced_since_it_was_checked_is_refused_when_it_is_opened_again(tmp_path, written):
    sleeping = pickle.dumps(BetonSource(written))
    write_beton(arrays(3), tmp_path / "b.beton", RAW)
    (tmp_path / "b.beton").replace(written)
    assert f"{written}: another file" in complaint(pickle.loads(sleeping).read, 0)
    written.unlink()
    assert str(written) in complaint(pickle.loads(sleeping).read, 0)


# ---------------------------------------------------------------------------------------------- writing that fails


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Failing(ArraySource):
    """Its image 30 cannot be read, in a way of choice."""

    def __init__(self, fail) -> None:
        super().__init__(smooth(60, 8), np.arange(60), [])
        self.fail = fail

    def read(self, sample: int) -> torch.Tensor:
        if sample == 30:
            self.fail()
        return super().read(sample)


def broken() -> None:
    raise BrokenImageError("image 30: no image")


def interrupted() -> None:
    raise KeyboardInterrupt


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_second_writer_of_the_same_file_is_refused_and_the_first_goes_on(tmp_path):
    said = []

    def write_again(_: int) -> None:
        if not said:
            said.append(complaint(write_beton, arrays(), tmp_path / "a.beton", RAW))

    write_beton(arrays(), tmp_path / "a.beton", RAW, progress=write_again)
    assert "another process" in said[0]
    assert len(BetonSource(tmp_path / "a.beton")) == 20


def in_between(monkeypatch, happens) -> None:
    """``happens`` after the next file is opened and before it is locked."""
    flock = fcntl.flock

    def locked(*arguments) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        happens()
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", locked)


def test_a_file_that_another_process_finishes_before_the_lock_is_had_stays_whole(monkeypatch, tmp_path):
    (tmp_path / ".a.beton.tmp").touch()  # a killed writer's: both open the same one
    in_between(monkeypatch, lambda: write_beton(arrays(3), tmp_path / "a.beton", RAW))
    assert "is there already" in complaint(write_beton, arrays(), tmp_path / "a.beton", RAW)
    assert len(BetonSource(tmp_path / "a.beton")) == 3
    assert left_in(tmp_path) == ["a.beton", "a.beton.json"]


def test_a_file_that_another_process_gives_up_before_the_lock_is_had_is_written(monkeypatch, tmp_path):
    (tmp_path / ".a.beton.tmp").touch()
    in_between(monkeypatch, lambda: complaint(write_beton, Failing(broken), tmp_path / "a.beton", RAW))
    write_beton(arrays(), tmp_path / "a.beton", RAW)
    assert len(BetonSource(tmp_path / "a.beton")) == 20
    assert left_in(tmp_path) == ["a.beton", "a.beton.json"]


def test_a_writer_that_gives_up_removes_nothing_of_another_one(monkeypatch, tmp_path):
    unlink, locked = Path.unlink, []

    def seen(path: Path, **options) -> None:
        locked.append(is_held(tmp_path / ".a.beton.tmp"))
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", seen)
    complaint(write_beton, Failing(broken), tmp_path / "a.beton", RAW)
    assert locked == [True, True]  # its sidecar and its temporary file


def test_bytes_that_are_not_those_that_were_meant_are_noticed_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(encode, "zlib", type("Other", (), {"crc32": staticmethod(lambda payload: 0)}))
    assert "read back" in complaint(write_beton, arrays(), tmp_path / "a.beton", RAW)
    assert left_in(tmp_path) == []


def test_what_is_there_is_never_overwritten(run, tmp_path, written):
    before = written.read_bytes()
    assert str(written) in complaint(write_beton, arrays(seed=1), written, RAW)
    assert run("data", "write", "digits_demo", written)[0] == 2
    written.rename(tmp_path / "elsewhere")
    assert "a.beton.json" in complaint(write_beton, arrays(seed=1), written, RAW)  # its file may come back
    assert (tmp_path / "elsewhere").read_bytes() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named_and_nothing_is_left(tmp_path, workers):
    message = complaint(write_beton, Failing(broken), tmp_path / "a.beton", RAW, workers=workers)
    assert "image 30: no image" in message
    assert "--skip-broken" in message
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_left_out_and_listed_when_asked(tmp_path, workers):
    source = Failing(broken)
    result = write_beton(source, tmp_path / "a.beton", RAW, workers=workers, max_broken_share=0.1)
    assert result.left_out == ["image 30: no image"]
    read = BetonSource(tmp_path / "a.beton")
    assert len(read) == 59
    assert read.labels.tolist() == [label for label in range(60) if label != 30]
    assert read.facts["written"]["left_out"] == result.left_out
    assert torch.equal(read.read(30), source.read(31))


def test_too_many_broken_images_are_refused(tmp_path):
    assert "1 of 60" in complaint(write_beton, Failing(broken), tmp_path / "a.beton", RAW, max_broken_share=0.001)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_writing_leaves_no_file_and_no_process(tmp_path, workers):
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_beton(arrays(200), tmp_path / "a.beton", RAW, workers=workers, progress=interrupt)
    assert left_in(tmp_path) == []
    assert multiprocessing.active_children() == []


def test_a_killed_worker_is_told_and_nothing_waits_forever(tmp_path):
    assert "killed" in complaint(write_beton, Failing(killed), tmp_path / "a.beton", RAW, workers=2)
    assert left_in(tmp_path) == []


def test_an_image_that_the_format_cannot_hold_is_named(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("L", (65536, 1)).save(tmp_path / "in" / "wide.png")
    message = complaint(write_beton, folder_source(tmp_path / "in"), tmp_path / "a.beton", Encoding(max_side=0))
    assert "wide.png" in message
    assert "65535" in message
    large = ArraySource(np.zeros((1, 3, 1700, 1700), np.uint8), None, [])
    assert "page" in complaint(write_beton, large, tmp_path / "a.beton", Encoding(mode="raw", max_side=0))


@pytest.mark.parametrize("call", ["fsync", "rename the sidecar", "rename the file"])
def test_a_disk_that_refuses_leaves_nothing(monkeypatch, tmp_path, call):
    rename = Path.replace

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def refuse_one(path: Path, target: Path) -> Path:
        return refuse() if target.name == refused else rename(path, target)

    refused = "a.beton" if call == "rename the file" else "a.beton.json"
    monkeypatch.setattr(*((os, "fsync", refuse) if call == "fsync" else (Path, "replace", refuse_one)))
    message = complaint(write_beton, arrays(), tmp_path / "a.beton", RAW)
    assert str(tmp_path / "a.beton") in message
    assert "No space left on device" in message
    assert left_in(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path, run):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        status, _, err = run("data", "write", "digits_demo", tmp_path / "a.beton")
        assert status == 2
        assert err.endswith("No space left on device; nothing is left of it: make room, or choose another folder\n")
        assert left_in(tmp_path) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# ---------------------------------------------------------------------------------------------- the command


def test_the_command_writes_checks_and_describes_every_split(run, tmp_path):
    for split, images in (("train", 1437), ("test", 360)):
        status, out, err = run("data", "write", "digits_demo", tmp_path, "--split", split)
        assert (status, [line for line in err.splitlines() if " images " not in line]) == (0, [])
        assert out.startswith(f"{tmp_path / split}.beton: {images} labelled images (0 JPEG, {images} raw)")
    digits = open_source(Data(source="digits"), "test")
    read = open_source(Data(source="beton", path=str(tmp_path)), "test")
    assert torch.equal(read.read(17), digits.read(17))
    assert run("data", "check", "--full", tmp_path / "test.beton")[0] == 0
    status, out, _ = run("data", "info", tmp_path / "test.beton")
    assert status == 0
    assert "split: test" in out


def test_the_command_lists_what_it_left_out(run, tmp_path):
    jpeg(tmp_path / "in" / "a.jpg", 90, 70)
    (tmp_path / "in" / "b.jpg").write_bytes(b"nothing")
    photos = ["digits_demo", tmp_path / "a.beton", "recipe.data.source=folder", f"recipe.data.path={tmp_path / 'in'}"]
    status, _, err = run("data", "write", *photos)
    assert status == 2
    assert "b.jpg" in err
    status, _, err = run("data", "write", *photos, "--skip-broken")
    assert status == 2
    assert "machine.max_broken_image_share" in err
    status, _, err = run("data", "write", *photos, "--skip-broken", "machine.max_broken_image_share=0.5")
    assert status == 0
    assert "\nleft out, broken: b.jpg" in err


# ---------------------------------------------------------------------------------------------- ffcv

needs_ffcv = pytest.mark.skipif(find_spec("ffcv") is None, reason="ffcv is not installed: see ./script/setup_ffcv")

# In a process of its own with a time limit, as ffcv waits forever where it fails. It reads our files in both ways that
# it has (memory map, page by page), and writes one.
WITH_FFCV = """
import sys
import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.reader import Reader
from ffcv.writer import DatasetWriter

folder = sys.argv[1]
for name, os_cache in (("jpeg", True), ("raw", False)):
    reader = Reader(f"{folder}/{name}.beton")
    assert reader.field_names == ["image", "label"]
    loader = Loader(f"{folder}/{name}.beton", batch_size=4, num_workers=1, order=OrderOption.SEQUENTIAL,
                    drop_last=False, os_cache=os_cache,
                    pipelines={"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]})
    batches = [(images.copy(), labels.copy()) for images, labels in loader]
    np.savez(f"{folder}/{name}.npz", images=np.concatenate([images for images, _ in batches]),
             labels=np.concatenate([labels for _, labels in batches])[:, 0], metadata=reader.metadata["f0"])
images = np.ascontiguousarray(np.load(f"{folder}/images.npy").transpose(0, 2, 3, 1))
fields = {"image": RGBImageField(write_mode="smart", smart_threshold=10000), "label": IntField()}
DatasetWriter(f"{folder}/theirs.beton", fields, page_size=1 << 21, num_workers=1).from_indexed_dataset(
    [(image[: 50 + 5 * label], label) for label, image in enumerate(images)])
"""


@pytest.fixture(scope="module")
def with_ffcv(tmp_path_factory) -> Path:
    """jpeg.beton and raw.beton of images.npy, what ffcv found in them (.npz), and theirs.beton of the same images."""
    folder = tmp_path_factory.mktemp("ffcv")
    source = arrays(10, 70)
    np.save(folder / "images.npy", source.images)
    for mode in ("jpeg", "raw"):
        write_beton(source, folder / f"{mode}.beton", Encoding(mode=mode))
    subprocess.run([sys.executable, "-c", WITH_FFCV, folder], check=True, timeout=120, stdout=subprocess.DEVNULL)
    return folder


@needs_ffcv
@pytest.mark.parametrize(("mode", "tolerance"), [("raw", 0), ("jpeg", 3)])
def test_ffcv_reads_our_files_with_the_same_pixels_and_labels(with_ffcv, mode, tolerance):
    found, source = np.load(with_ffcv / f"{mode}.npz"), BetonSource(with_ffcv / f"{mode}.beton")
    np.testing.assert_array_equal(found["labels"], source.labels)
    for sample, image in enumerate(found["images"]):
        ours = source.read(sample).permute(1, 2, 0).numpy().astype(int)
        assert np.abs(image - ours).max() <= tolerance  # ffcv decodes JPEGs with the fast, less exact transform


@needs_ffcv
def test_we_read_what_ffcv_wrote_once_it_is_sealed(with_ffcv, run):
    path, images = with_ffcv / "theirs.beton", np.load(with_ffcv / "images.npy")
    assert f"data seal {path}" in complaint(BetonSource, path)
    assert run("data", "seal", path)[0] == 0
    source = BetonSource(path)
    assert source.labels.tolist() == list(range(10))
    assert source.facts["jpegs"] == 10
    for sample, image in enumerate(images):
        read = source.read(sample).numpy().astype(int)
        assert read.shape == (3, min(70, 50 + 5 * sample), 70)
        assert np.abs(read - image[:, : 50 + 5 * sample]).mean() < 4
    assert run("data", "seal", path)[0] == 2
    flip(path, int(read_table(path).pointers[4]) + 100)
    assert "damaged" in complaint(BetonSource, path)
