"""Features for other programs: every image once and in order, the same bytes whoever computed them, nothing mixed."""

import json
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet
import pytest
import torch
from torch import nn

from simclr_dist.config.recipe import Data
from simclr_dist.data.sources.base import ArraySource, Subset
from simclr_dist.data.sources.whole import image_name, open_whole
from simclr_dist.errors import UserError
from simclr_dist.evaluation import feature_files
from simclr_dist.evaluation.feature_files import check_out, read_features, write_features
from simclr_dist.evaluation.features import Extraction, feature_matrix, features_digest, remove_blocks
from simclr_dist.evaluation.source_features import SourceFeatures, broken_lines, source_features
from simclr_dist.weights.export import export
from tests.support.commands import complaint, run_command
from tests.support.evaluation import small_context
from tests.support.images import write_image
from tests.support.processes import run_distributed

KINDS = pytest.mark.parametrize("kind", feature_files.KINDS)


class Means(nn.Module):
    """The mean colour of an image, and how many batches were seen."""

    def __init__(self, fails_at: int = -1) -> None:
        super().__init__()
        self.batches, self.fails_at = 0, fails_at

    def forward(self, images):
        self.batches += 1
        if self.batches == self.fails_at:
            raise KeyboardInterrupt
        return images.float().mean((2, 3))


def pictures(folder, count=40):
    """Files of one colour each, below folders of any depth, every tenth of them broken."""
    for number in range(count):
        write_image(folder / ("test/a/b" if number % 3 else ".") / f"{number:03d}.png", (number, 100, 200))
        if number % 10 == 5:
            next(folder.rglob(f"{number:03d}.png")).write_bytes(b"no picture")
    return open_whole(Data(path=str(folder)))


def how_in(folder):
    return Extraction(batch_images=2, cache=folder, leaves_out_broken=True)


def written(folder, out):
    """The bytes of a file, by whatever processes call this; None on those that do not write."""
    source = open_whole(Data(path=str(folder)))
    found = source_features(Means(), source, 8, how_in(out.parent / "features"))
    if found is None:
        return None
    write_features(out, source, found[0], {"of": "a test"})
    return out.read_bytes()


def features_of_numbers(count, dim=6):
    matrix = np.arange(count * dim, dtype=np.float32).reshape(count, dim)
    samples = np.flatnonzero(np.arange(count) % 4 != 1)
    return SourceFeatures(matrix, samples, samples)


@KINDS
def test_a_file_holds_the_images_that_were_read_in_the_order_of_the_source_whatever_its_parts(
    tmp_path, monkeypatch, kind
):
    monkeypatch.setattr(feature_files, "_GROUP_BYTES", 100)
    source = ArraySource(np.zeros((30, 3, 8, 8), dtype=np.uint8), np.arange(30) % 3, ["a", "b", "c"])
    found, out = features_of_numbers(30), tmp_path / f"out{kind}"
    write_features(out, source, found, {"of": "a test"})
    if kind == ".npz":
        with np.load(out) as file:
            names, labels, features = file["names"].tolist(), file["labels"], file["features"]
            assert json.loads(str(file["metadata"]))["of"] == "a test"
    else:
        table = pyarrow.parquet.read_table(out)
        names, labels = table["name"].to_pylist(), table["label"].to_numpy()
        features = np.array(table["features"].to_pylist(), dtype=np.float32)
        assert str(table.schema.field("features").type) == "fixed_size_list<element: float>[6]"
        assert pyarrow.parquet.ParquetFile(out).num_row_groups > 3
    assert names == [str(sample) for sample in found.samples]
    assert labels.tolist() == (found.samples % 3).tolist()
    assert np.array_equal(features, found.matrix[found.samples])
    known, matrix = read_features(out)
    assert known == {"format": 1, "of": "a test"}
    assert np.array_equal(np.asarray(matrix), features)
    assert np.array_equal(matrix[np.array([3, 4, 20])], features[[3, 4, 20]])


@KINDS
def test_one_and_two_processes_write_the_same_bytes_and_a_killed_extraction_resumes(tmp_path, kind):
    pictures(tmp_path / "pictures")
    for name in ("alone", "two", "killed"):
        (tmp_path / name).mkdir()
    alone = written(tmp_path / "pictures", tmp_path / "alone" / f"f{kind}")
    first, second = run_distributed(2, written, tmp_path / "pictures", tmp_path / "two" / f"f{kind}")
    assert (first == alone, second) == (True, None)
    source, how = pictures(tmp_path / "pictures"), how_in(tmp_path / "killed" / "features")
    with pytest.raises(KeyboardInterrupt):
        source_features(Means(fails_at=13), source, 8, how)
    resumed = Means()
    found = source_features(resumed, source, 8, how)
    assert 0 < resumed.batches <= 8
    write_features(tmp_path / "killed" / f"f{kind}", source, found[0], {"of": "a test"})
    assert (tmp_path / "killed" / f"f{kind}").read_bytes() == alone


def test_broken_images_are_left_out_and_each_is_named_with_its_reason(tmp_path):
    source = pictures(tmp_path / "pictures")
    found, broken = source_features(Means(), source, 8, how_in(tmp_path / "features"))
    assert len(found.samples) == 36
    lines = broken_lines(source, broken).splitlines()
    assert [line.partition("\t")[0] for line in lines] == [
        "015.png",
        *(f"test/a/b/{number}.png" for number in ("005", "025", "035")),
    ]
    assert all(line.partition("\t")[2].startswith("UnidentifiedImageError: ") for line in lines)
    values = np.concatenate([rows for _, rows in found.blocks()])
    numbers = [int(image_name(source, int(sample))[-7:-4]) for sample in found.samples]
    assert values[:, 0].round().astype(int).tolist() == numbers


def test_features_with_broken_images_are_never_taken_for_an_evaluations(tmp_path):
    source, how = pictures(tmp_path / "pictures"), how_in(tmp_path / "features")
    source_features(Means(), source, 8, how)
    strict = replace(how, leaves_out_broken=False)
    assert features_digest(Means(), source, 8, how) != features_digest(Means(), source, 8, strict)
    with pytest.raises(UserError, match="one is broken"):
        feature_matrix(Means(), source, 8, strict)


def test_weights_that_are_not_finite_and_folders_without_a_whole_image_are_refused(tmp_path):
    class Diverged(nn.Module):
        def forward(self, images):
            found = images.float().mean((2, 3))
            found[0] = torch.inf
            return found

    for name in ("a.png", "b.png"):
        write_image(tmp_path / "good" / name)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.png: its features are not finite"):
        source_features(Diverged(), open_whole(Data(path=str(tmp_path / "good"))), 8, how_in(None))
    with pytest.raises(UserError, match=r"none of the 1 images can be read; the first: a\.png"):
        source_features(Means(), open_whole(Data(path=str(tmp_path / "bad"))), 8, how_in(None))


def test_a_folder_is_taken_whole_whatever_its_classes_and_splits(tmp_path):
    for name in ("train/a/1.png", "test/a/2.png", "3.png", "val/4.png"):
        write_image(tmp_path / name)
    write_image(tmp_path / ".hidden" / "5.png")
    source = open_whole(Data(path=str(tmp_path)))
    assert [source.name(n) for n in range(len(source))] == ["3.png", "test/a/2.png", "train/a/1.png", "val/4.png"]
    assert source.labels is None
    assert image_name(Subset(source, np.array([2])), 0) == "train/a/1.png"


def test_the_blocks_of_some_features_are_removed_and_no_others(tmp_path):
    source, how = pictures(tmp_path / "pictures"), how_in(tmp_path / "features")
    source_features(Means(), source, 8, how)
    source_features(Means(), source, 16, how)
    remove_blocks(Means(), source, 8, how)
    kept = {path.parent.name for path in (tmp_path / "features").rglob("*.npy")}
    assert kept == {features_digest(Means(), source, 16, how)}


def test_a_file_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", features=np.zeros(3))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    for name in ("a.npz", "a.parquet"):
        with pytest.raises(UserError, match="no file of `simclr-dist features`"):
            read_features(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_features(tmp_path / "gone.npz")


def test_without_pyarrow_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'simclr_dist\[parquet\]'"):
        check_out(tmp_path / "a.parquet", overwrite=False)
    check_out(tmp_path / "a.npz", overwrite=False)


def test_the_command_overwrites_nothing_unasked_and_names_what_is_wrong(tmp_path, capsys):
    weights = tmp_path / "weights.safetensors"
    export(small_context(tmp_path).pretrained, "safetensors", weights)
    write_image(tmp_path / "pictures" / "a.png")
    out = tmp_path / "out.npz"
    asked = ("features", weights, tmp_path / "pictures", "--out", out)
    status, told, _ = run_command(capsys, *asked)
    assert (status, told.startswith(f"{out}: 1 image, ")) == (0, True)
    before = out.read_bytes()
    for arguments, named in (
        (asked, "--overwrite"),
        ((*asked[:4], tmp_path / "out.csv"), ".parquet or .npz"),
        ((*asked[:4], tmp_path / "no" / "out.npz"), "is not a folder"),
        (("features", weights, tmp_path / "gone", "--out", tmp_path / "b.npz"), "give the folder of the images"),
        ((*asked[:4], tmp_path / "b.npz", "--source", "digit"), "did you mean 'digits'"),
    ):
        status, _, err = run_command(capsys, *arguments)
        assert (status, named in complaint(err)) == (2, True)
    assert out.read_bytes() == before
    assert run_command(capsys, *asked, "--overwrite", "--no-keep")[0] == 0
    assert out.read_bytes() == before
    assert not list((tmp_path / "weights.safetensors.evaluation").rglob("*.npy"))
