"""Shards: members of tars as tarfile reads them; an index that is whole, flat in memory, and goes on after a kill."""

import errno
import fcntl
import gzip
import io
import os
import shutil
import tarfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from simclr_dist.cli.encoding import open_images
from simclr_dist.config import to_yaml
from simclr_dist.config.recipe import Data
from simclr_dist.config.shards import Shards
from simclr_dist.data.sources.shards import finding, indexing
from simclr_dist.data.sources.shards.finding import find_shards
from simclr_dist.data.sources.shards.index import VERSION, read_index
from simclr_dist.data.sources.shards.settings import shards_of_run
from simclr_dist.data.sources.shards.tar import Position, members
from simclr_dist.errors import UserError
from simclr_dist.storage.sealed_json import read_sealed, sealed
from tests.support.images import open_source
from tests.support.processes import tiny_config
from tests.support.shards import indexed, picture, write_shards, write_tar

LONG = "folder/" * 30 + "name" * 20 + ".png"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_tarfile_finds(tmp_path, form):
    path = tmp_path / "a.tar"
    names = ["a.png", "x/b.png", "p" * 90 + "/" + "q" * 99, "ä/ü.png"]
    with tarfile.open(path, "w", format=form) as tar:
        for number, name in enumerate(names if form == tarfile.USTAR_FORMAT else [*names, LONG]):
            folder = tarfile.TarInfo(f"folder{number}")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            info = tarfile.TarInfo(name)
            info.size = 511 + number
            tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
            link = tarfile.TarInfo(f"link{number}")
            link.type, link.linkname = tarfile.SYMTYPE, "a.png"
            tar.addfile(link)
    with path.open("rb") as file, tarfile.open(path) as expected:
        found = [(each.name.decode(), each.offset, each.size) for each in members(file, Position())]
        assert found == [(each.name, each.offset_data, each.size) for each in expected if each.isreg()]


def test_a_size_beyond_octal_is_read():
    info = tarfile.TarInfo("large.png")
    info.size = 9 << 30
    header = info.tobuf(tarfile.GNU_FORMAT)
    assert next(members(io.BytesIO(header), Position())).size == 9 << 30
    pax = info.tobuf(tarfile.PAX_FORMAT)
    assert next(members(io.BytesIO(pax), Position())).size == 9 << 30


def whole(folder: Path) -> bytes:
    write_tar(folder / "whole.tar", {"a.png": picture(0), "b.png": picture(1)})
    return (folder / "whole.tar").read_bytes()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda whole: whole[:1500], "is cut"),
        (lambda whole: whole[:2048], "is cut"),  # after a member: tarfile takes it for whole
        (lambda whole: gzip.compress(whole), "compressed"),
        (lambda whole: b"no tar" * 1000, "no tar file"),
        (lambda whole: b"", "is empty"),
        (lambda whole: whole + whole, "behind its end"),
        (lambda whole: whole[:1024] + b"x" + whole[1025:], "checksum"),
    ],
)
def test_what_would_be_read_wrongly_is_refused_by_name(tmp_path, spoil, said):
    content = spoil(whole(tmp_path / "other"))
    (tmp_path / "bad.tar").write_bytes(content)
    with pytest.raises(UserError, match=rf"bad\.tar: .*{said}"):
        indexed(tmp_path / "bad.tar", tmp_path / "index")


def test_samples_are_keys_with_an_image_and_labels_are_where_they_are_asked_for(tmp_path):
    members = {
        "cat/a.jpg.png": b"none: its suffix is jpg.png",
        "cat/a.PNG": picture(0), "cat/a.cls": b"2\n", "cat/a.json": b'{"label": 5}',
        "cat/._a.png": b"a Mac's", "dog/b.json": b'{"class": 1}', "dog/b.png": picture(1), "dog/c.txt": b"alone",
    }  # fmt: skip
    write_tar(tmp_path / "a.tar", members)
    index = indexed(tmp_path / "a.tar", tmp_path / "auto")
    assert [index.member(sample) for sample in range(len(index))] == ["cat/a.PNG", "dog/b.png"]
    assert index.labels is not None
    assert index.labels.tolist() == [2, 1]
    assert index.shards[0].left_out == 1
    by_folder = indexed(tmp_path / "a.tar", tmp_path / "folder", "folder")
    assert by_folder.labels is not None
    assert (by_folder.classes, by_folder.labels.tolist()) == (["cat", "dog"], [0, 1])
    assert indexed(tmp_path / "a.tar", tmp_path / "cls", "cls").labels is None  # one has none
    assert indexed(tmp_path / "a.tar", tmp_path / "none", "none").labels is None


def test_a_name_twice_is_refused(tmp_path):
    write_tar(tmp_path / "a.tar", {"a.png": picture(0)})
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        info = tarfile.TarInfo("a.png")
        tar.addfile(info, io.BytesIO())
    with pytest.raises(UserError, match=r"a\.png twice"):
        indexed(tmp_path / "a.tar", tmp_path / "index")


def test_an_index_has_the_pictures_and_labels_in_the_order_of_the_shards(tmp_path):
    write_shards(tmp_path / "tars", [3, 5, 2])
    indexed(tmp_path / "tars", tmp_path / "index")
    source = open_source(Data(source="webdataset", path=str(tmp_path / "index")))
    assert [source.content(sample) for sample in range(10)] == [picture(number) for number in range(10)]
    assert source.labels is not None
    assert source.labels.tolist() == [number % 3 for number in range(10)]
    assert source.name(4) == "s-001.tar/000004.png"


def test_patterns_and_lists_of_shards_are_the_same_as_their_folder(tmp_path):
    paths = write_shards(tmp_path / "tars", [1] * 12)
    by_folder = find_shards([str(tmp_path / "tars")], 1)
    for places in ([f"{tmp_path}/tars/s-{{000..011}}.tar"], [f"{tmp_path}/tars/*.tar"], list(map(str, paths))):
        assert find_shards(places, 1) == by_folder
    with pytest.raises(UserError, match=r"s-012\.tar"):
        find_shards([f"{tmp_path}/tars/s-{{000..012}}.tar"], 1)


def test_a_pass_that_was_ended_goes_on_and_a_later_one_reads_only_what_changed(tmp_path, monkeypatch):
    paths = write_shards(tmp_path / "tars", [2] * 4)
    read: list[str] = []
    real = indexing._Work.__call__

    def counted(work, name):
        if len(read) == 2 and len(paths) == 4:
            paths.append(Path())  # once
            raise KeyboardInterrupt
        read.append(name)
        real(work, name)

    monkeypatch.setattr(indexing._Work, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        indexed(tmp_path / "tars", tmp_path / "index")
    first = indexed(tmp_path / "tars", tmp_path / "index")
    assert read == [f"s-{number:03}.tar" for number in range(4)]
    assert not (tmp_path / "index" / "parts").exists()
    write_shards(tmp_path / "more", [2] * 5)
    (tmp_path / "more" / "s-004.tar").rename(tmp_path / "tars" / "s-004.tar")
    longer = indexed(tmp_path / "tars", tmp_path / "index")
    assert read[4:] == ["s-004.tar"]
    monkeypatch.undo()
    anew = indexed(tmp_path / "tars", tmp_path / "anew")
    assert longer.fingerprint == anew.fingerprint != first.fingerprint
    for column in ("names", "ends", "offsets", "lengths", "crcs", "labels"):
        np.testing.assert_array_equal(getattr(longer, column), getattr(anew, column))
    assert len(list((tmp_path / "index").iterdir())) == 2  # index.json and its columns: the earlier ones are gone


def test_a_second_pass_into_the_same_folder_is_refused_and_the_first_goes_on(tmp_path, monkeypatch):
    write_shards(tmp_path / "tars", [2, 2])
    said, real = [], indexing._Work.__call__

    def beside(work, name):
        monkeypatch.undo()
        with pytest.raises(UserError) as caught:
            indexed(tmp_path / "tars", tmp_path / "index")
        said.append(str(caught.value))
        real(work, name)

    monkeypatch.setattr(indexing._Work, "__call__", beside)
    assert len(indexed(tmp_path / "tars", tmp_path / "index")) == 4
    assert said == [f"{tmp_path}/index: another process is indexing into it; wait for it, or end it"]
    assert len(list((tmp_path / "index").iterdir())) == 2  # index.json and its columns: no lock is left


@pytest.mark.parametrize(("number", "is_indexed"), [(errno.ENOSYS, True), (errno.EOPNOTSUPP, True), (errno.EIO, False)])
def test_an_index_goes_where_there_are_no_locks_but_not_where_locking_fails(tmp_path, monkeypatch, number, is_indexed):
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    write_shards(tmp_path / "tars", [2])
    monkeypatch.setattr(fcntl, "flock", refused)
    with nullcontext() if is_indexed else pytest.raises(UserError, match=os.strerror(number)):
        assert len(indexed(tmp_path / "tars", tmp_path / "index")) == 2


def test_several_workers_make_the_index_that_one_makes(tmp_path):
    write_shards(tmp_path / "tars", [2, 3])
    several = indexing.index_shards([str(tmp_path / "tars")], tmp_path / "a", "auto", workers=2, wait_seconds=1)
    assert several.fingerprint == indexed(tmp_path / "tars", tmp_path / "b").fingerprint


@pytest.mark.parametrize("column", ["labels", "offsets"])
def test_a_damaged_column_is_refused(tmp_path, column):
    write_shards(tmp_path / "tars", [3])
    folder = indexed(tmp_path / "tars", tmp_path / "index").folder
    file = next(folder.glob(f"columns_*/{column}.npy"))
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{column}.npy does not match"):
        read_index(folder)
    file.write_bytes(content[:-1])
    with pytest.raises(UserError, match="is cut"):
        read_index(folder)


DAMAGES = {
    "no columns": lambda index: shutil.rmtree(next(index.glob("columns_*"))),
    "a column less": lambda index: next(index.glob("columns_*/names.npy")).unlink(),
    "a column cut": lambda index: os.truncate(next(index.glob("columns_*/crcs.npy")), 130),
    "no JSON": lambda index: (index / "index.json").write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_made_anew_by_the_command_that_is_named(tmp_path, damage):
    write_shards(tmp_path / "tars", [3, 2])
    index = indexed(tmp_path / "tars", tmp_path / "index")
    DAMAGES[damage](index.folder)
    with pytest.raises(UserError, match=f"; make it with: simclr-dist data index SHARDS {index.folder}$"):
        read_index(index.folder)
    said: list[str] = []
    indexing.index_shards([f"{tmp_path}/tars"], index.folder, "auto", workers=0, wait_seconds=1, say=said.append)
    assert f"{index.folder}: its index is damaged and is made anew" in said
    assert read_index(index.folder).fingerprint == index.fingerprint


def test_an_index_that_is_newer_or_cannot_be_read_now_is_not_made_anew(tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    write_shards(tmp_path / "tars", [2])
    path = indexed(tmp_path / "tars", tmp_path / "index").folder / "index.json"
    with monkeypatch.context() as patched:
        patched.setattr("simclr_dist.data.sources.shards.index._mapped", refused)
        with pytest.raises(UserError, match="cannot be read: Input/output error"):
            indexed(tmp_path / "tars", path.parent)
    content = sealed(read_sealed(path, VERSION) | {"format": VERSION + 1})
    path.write_bytes(content)
    with pytest.raises(UserError, match="update to read it"):
        indexed(tmp_path / "tars", path.parent)
    assert path.read_bytes() == content


def test_columns_are_mapped_not_read_into_memory(tmp_path):
    write_shards(tmp_path / "tars", [3])
    index = indexed(tmp_path / "tars", tmp_path / "index")
    for column in (index.names, index.ends, index.offsets, index.lengths, index.crcs, index.labels):
        while not isinstance(column, np.memmap):
            assert column is not None
            column = column.base


NUMBERS = ["0", "1", "10", "2"]


@pytest.mark.parametrize(
    ("of_train", "of_test", "classes"),
    [
        (["ant", "cat"], ["bee", "cat"], ["ant", "bee", "cat"]),
        # As names 10 comes before 2: test's alone are their numbers, and train's are not.
        (NUMBERS, ["0", "1", "2"], NUMBERS),
        (["0", "1", "2"], NUMBERS, NUMBERS),
    ],
)
def test_classes_by_name_are_numbered_over_both_splits_but_what_is_pretrained_on_by_itself(
    tmp_path, of_train, of_test, classes
):
    for split, folders in (("train", of_train), ("test", of_test)):
        write_tar(tmp_path / split / "a.tar", {f"{name}/{split}.png": picture(0) for name in folders})
        indexed(tmp_path / split, tmp_path / "index" / split, "folder")
    data = Data(source="webdataset", path=str(tmp_path / "index"))
    train, test, pretrain = (open_source(data, split) for split in ("train", "test", "pretrain"))
    assert train.classes == test.classes == classes
    for source, folders in ((train, of_train), (test, of_test), (pretrain, of_train)):
        assert [source.classes[label] for label in source.labels] == folders
    # A run does not change when test images come to it.
    assert pretrain.classes == of_train


def test_labels_that_were_missing_are_found_when_the_shard_has_them(tmp_path):
    def write(last: dict[str, bytes]) -> None:
        write_tar(tmp_path / "tars" / "a.tar", {"a.png": picture(0), "a.cls": b"0"})
        write_tar(tmp_path / "tars" / "b.tar", {"b.png": picture(1), **last})

    write({})
    assert indexed(tmp_path / "tars", tmp_path / "index").labels is None
    a = (tmp_path / "tars" / "a.tar").stat()
    write({"b.cls": b"1"})
    os.utime(tmp_path / "tars" / "a.tar", ns=(a.st_atime_ns, a.st_mtime_ns))
    assert list(indexed(tmp_path / "tars", tmp_path / "index").labels) == [0, 1]


def test_an_index_of_the_same_shards_is_made_again_by_the_same_process(tmp_path):
    write_shards(tmp_path / "tars", [2])
    first, second = (indexed(tmp_path / "tars", tmp_path / "index") for _ in range(2))
    assert first.fingerprint == second.fingerprint


def test_shards_of_two_mounts_and_behind_links_are_found_each_once(tmp_path, monkeypatch):
    write_shards(tmp_path / "one", [1])
    write_shards(tmp_path / "two", [1, 1])
    (tmp_path / "one" / "more").symlink_to(tmp_path / "two")
    (tmp_path / "one" / "itself").symlink_to(tmp_path / "one")
    assert find_shards([str(tmp_path / "one")], 1)[1] == ["more/s-000.tar", "more/s-001.tar", "s-000.tar"]
    monkeypatch.setattr(finding, "_below", lambda place: iter([f"{place}/a.tar"]))
    assert find_shards(["/one", "/two"], 1) == ("/", ["one/a.tar", "two/a.tar"])
    assert find_shards([""], 1) == ("/", ["a.tar"])


def test_a_folder_of_shards_that_cannot_be_listed_is_no_smaller_set(tmp_path, monkeypatch):
    write_shards(tmp_path / "tars" / "below", [1])
    real = os.scandir

    def refused(path):
        if str(path).endswith("below"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match=r"SHARDS: .*below cannot be listed"):
        find_shards([str(tmp_path / "tars")], 1)


def test_without_an_index_or_a_split_a_line_says_how_to_make_it(tmp_path):
    write_shards(tmp_path / "tars", [3])
    for path in (tmp_path / "tars", tmp_path / "nothing"):
        with pytest.raises(UserError, match="data index"):
            open_source(Data(source="webdataset", path=str(path)))
    indexed(tmp_path / "tars", tmp_path / "index")
    with pytest.raises(UserError, match=r"'test'.* data index SHARDS .*index/test"):
        open_source(Data(source="webdataset", path=str(tmp_path / "index")), "test")


def test_moved_shards_are_read_where_the_machine_says_and_changed_ones_refused(tmp_path):
    paths = write_shards(tmp_path / "tars", [3, 2])
    indexed(tmp_path / "tars", tmp_path / "index")
    data = Data(source="webdataset", path=str(tmp_path / "index"))
    content = paths[1].read_bytes()
    paths[1].write_bytes(content)
    with pytest.raises(UserError, match=r"s-001\.tar: was written since .*another time"):
        open_source(data)
    (tmp_path / "tars").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"s-000\.tar: .*machine\.shards\.location"):
        open_source(data)
    there = Shards(location=str(tmp_path / "moved"))
    assert open_source(data, shards=there).content(4) == picture(4)
    (tmp_path / "moved" / "s-001.tar").write_bytes(content + bytes(512))
    with pytest.raises(UserError, match=rf"s-001\.tar: has {len(content) + 512} bytes, and had {len(content)}"):
        open_source(data, shards=there)


def test_a_flipped_byte_is_refused_by_shard_and_sample(tmp_path):
    path = write_shards(tmp_path / "tars", [3])[0]
    index = indexed(tmp_path / "tars", tmp_path / "index")
    source = open_source(Data(source="webdataset", path=str(tmp_path / "index")))
    with path.open("r+b") as file:
        file.seek(int(index.offsets[1]) + 200)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    assert source.content(0) == picture(0)
    with pytest.raises(UserError, match=r"s-000\.tar: 000001\.png is not what was indexed"):
        source.read(1)


def test_a_folder_of_something_else_is_not_written_into(tmp_path):
    write_shards(tmp_path / "tars", [1])
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    with pytest.raises(UserError, match="photos: is something else than an index"):
        indexed(tmp_path / "tars", tmp_path / "photos")


def test_a_run_that_is_looked_at_brings_its_own_settings_and_what_is_none_the_defaults(tmp_path):
    assert shards_of_run(tmp_path) == Shards() == shards_of_run(tmp_path / "weights.safetensors")
    config = tiny_config(tmp_path, "machine.shards.location=/nvme")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert shards_of_run(tmp_path) == config.machine.shards != Shards()


def test_other_images_of_a_run_are_read_by_way_of_its_own_settings(tmp_path):
    write_shards(tmp_path / "tars", [3])
    indexed(tmp_path / "tars", tmp_path / "index")
    (tmp_path / "tars").rename(tmp_path / "moved")
    config = tiny_config(tmp_path, f"machine.shards.location={tmp_path / 'moved'}")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    loaded = SimpleNamespace(recipe=config.recipe, image_size=8, take_images=lambda size: "")
    images, _ = open_images(tmp_path, loaded, "webdataset", str(tmp_path / "index"), None, None)
    assert images.content(2) == picture(2)
