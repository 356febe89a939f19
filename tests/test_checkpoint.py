"""Checkpoints: atomic, checksummed, readable by torch.load, never loaded when damaged."""

import errno
import os
import random

import pytest
import torch

from simclr_dist import checkpoint
from simclr_dist.errors import UserError
from tests.harness import assert_bit_equal


def state(value: float) -> dict:
    return {"model": {"w": torch.full((100, 10), value)}, "recipe": {"seed": 1, "data": {"mean": [0.1, 0.2]}}}


def test_what_is_saved_is_what_is_loaded(tmp_path):
    path = checkpoint.save(tmp_path, state(2.5), 7, keep=3)
    loaded = checkpoint.load(path)
    assert loaded["step"] == 7
    assert_bit_equal({key: loaded[key] for key in ("model", "recipe")}, state(2.5))


def test_torch_load_reads_the_file_as_it_is(tmp_path):
    path = checkpoint.save(tmp_path, state(2.5), 7, keep=3)
    assert torch.load(path, weights_only=True)["model"]["w"][0, 0] == 2.5


def test_last_points_at_the_newest_and_only_the_newest_are_kept(tmp_path):
    for step in range(1, 6):
        checkpoint.save(tmp_path, state(step), step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "step_000000004.pt", "step_000000005.pt"]
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 5


def damage(content: bytes, kind: str) -> bytes:
    where = random.Random(0)
    if kind == "cut":
        return content[: where.randrange(len(content))]
    if kind == "flipped bit":
        place = where.randrange(len(content) - 100)
        return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    if kind == "zeroed end":
        return content[:-300] + bytes(300)
    return {"empty": b"", "foreign": b"PK\x05\x06" + bytes(500)}[kind]


@pytest.mark.parametrize("kind", ["cut", "flipped bit", "zeroed end", "empty", "foreign"])
def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_is_taken(tmp_path, kind):
    good = checkpoint.save(tmp_path, state(1), 1, keep=3)
    bad = checkpoint.save(tmp_path, state(2), 2, keep=3)
    bad.write_bytes(damage(bad.read_bytes(), kind))
    with pytest.raises(checkpoint.DamagedCheckpointError):
        checkpoint.load(bad)
    path, complaints = checkpoint.newest_intact(tmp_path)
    assert path == good
    assert len(complaints) == 1
    assert "step_000000002.pt" in complaints[0]
    assert bad.with_name("step_000000002.pt.damaged").exists()
    assert not bad.exists()


def test_the_only_checkpoint_is_left_in_place_when_damaged(tmp_path):
    path = checkpoint.save(tmp_path, state(1), 1, keep=3)
    path.write_bytes(b"")
    assert checkpoint.newest_intact(tmp_path)[0] is None
    assert path.exists()


def test_a_checkpoint_of_a_newer_version_is_refused_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    path = checkpoint.save(tmp_path, state(1), 1, keep=1)
    monkeypatch.undo()
    with pytest.raises(UserError, match="newer simclr_dist"):
        checkpoint.load(path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_last_checkpoint_and_no_half_file(tmp_path, monkeypatch, call):
    checkpoint.save(tmp_path, state(1), 1, keep=1)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.os, "fsync", full) if call == "fsync" else monkeypatch.setattr(
        checkpoint.Path, "replace", full
    )
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save(tmp_path, state(2), 2, keep=1)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.glob("*step_*")] == ["step_000000001.pt"]
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 1


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    path = checkpoint.save(tmp_path, {"model": Evil()}, 1, keep=1)
    with pytest.raises(checkpoint.DamagedCheckpointError):
        checkpoint.load(path)
    assert not (tmp_path / "owned").exists()
