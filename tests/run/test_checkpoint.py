"""Checkpoints: atomic, checksummed, readable by torch.load, never loaded when damaged."""

import errno
import io
import itertools
import os
import random
import subprocess
from fractions import Fraction
from pathlib import Path, PurePosixPath

import pytest
import torch

from simclr_dist.errors import UserError
from simclr_dist.run import checkpoint
from tests.support.checkpoints import sealed, state
from tests.support.processes import assert_bit_equal


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


def pickled(content: object, **how: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def damage(content: bytes, kind: str, where: random.Random) -> bytes:
    position = where.randrange(len(content))
    if kind == "cut":
        return content[:position]
    if kind == "flipped":
        return content[:position] + bytes([content[position] ^ 1 << where.randrange(8)]) + content[position + 1 :]
    if kind == "zeroed":
        end = min(len(content), position + where.randrange(1, 5000))
        zeroed = content[:position] + bytes(end - position) + content[end:]
        return zeroed if zeroed != content else damage(content, kind, where)
    return where.choice(
        [
            b"",
            b"PK\x05\x06" + bytes(500),
            where.randbytes(3000),
            pickled(state(2)),
            pickled(state(2), _use_new_zipfile_serialization=False),
            sealed([1, 2]),
            sealed({"model": {}}),
            sealed({"format": "1", "step": 2}),
            sealed({"format": 1, "step": Path("a")}),
        ]
    )


def test_of_200_damaged_checkpoints_each_is_set_aside_with_its_reason_and_the_one_before_is_taken(tmp_path):
    where = random.Random(0)
    good = checkpoint.save(tmp_path, state(1), 1, keep=3)
    bad = checkpoint.save(tmp_path, state(2), 2, keep=3)
    content = bad.read_bytes()
    aside = bad.with_name("step_000000002.pt.damaged")
    for number in range(200):
        bad.write_bytes(damage(content, ("cut", "flipped", "zeroed", "foreign")[number % 4], where))
        with pytest.raises(checkpoint.DamagedCheckpointError):
            checkpoint.load(bad)
        path, (complaint,) = checkpoint.newest_intact(tmp_path)
        assert path == good
        assert complaint.startswith(f"{bad}: ")
        assert aside.exists()
        assert not bad.exists()
        aside.unlink()


def test_the_only_checkpoint_is_left_in_place_when_damaged(tmp_path):
    path = checkpoint.save(tmp_path, state(1), 1, keep=3)
    path.write_bytes(b"")
    assert checkpoint.newest_intact(tmp_path)[0] is None
    assert path.exists()


def test_a_checkpoint_of_a_newer_version_is_refused_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    path = checkpoint.save(tmp_path, state(1), 1, keep=1)
    monkeypatch.undo()
    for read in (checkpoint.load, lambda path: checkpoint.newest_intact(path.parent)):
        with pytest.raises(UserError, match="newer simclr_dist"):
            read(path)
    assert path.exists()


def complaint_of_a_save(folder: Path, content: dict, step: int) -> str:
    """Empty when it succeeds."""
    try:
        checkpoint.save(folder, content, step, keep=1)
    except UserError as error:
        return str(error)
    return ""


class Failing:
    """All that asks something of the disk, made to fail from a call on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: int) -> None:
        self._calls = itertools.count()
        self._first = first
        self.failed = False
        for where, name in (
            (Path, "open"), (Path, "replace"), (Path, "symlink_to"), (Path, "unlink"), (Path, "mkdir"),
            (Path, "read_bytes"), (os, "fsync"), (os, "open"),
        ):  # fmt: skip
            monkeypatch.setattr(where, name, self._counted(getattr(where, name)))

    def _counted(self, function):
        def call(*arguments, **named):
            self.ask()
            result = function(*arguments, **named)
            return _FailingFile(result, self.ask) if isinstance(result, io.BufferedWriter) else result

        return call

    def ask(self) -> None:
        if next(self._calls) >= self._first:
            self.failed = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _FailingFile(io.BufferedWriter):
    def __init__(self, file: io.BufferedWriter, ask) -> None:
        super().__init__(file.detach())
        self._ask = ask

    def write(self, content):
        self._ask()
        return super().write(content)


def test_a_save_that_fails_at_any_point_leaves_an_intact_newest_checkpoint_and_no_half_file(tmp_path, monkeypatch):
    for first in itertools.count():
        folder = tmp_path / str(first)
        checkpoint.save(folder, state(1), 1, keep=1)
        with monkeypatch.context() as patched:
            failing = Failing(patched, first)
            assert "No space left" in complaint_of_a_save(folder, state(2), 2) or not failing.failed
        newest, complaints = checkpoint.newest_intact(folder)
        assert complaints == []
        step = checkpoint.load(newest)["step"]
        assert_bit_equal(checkpoint.load(newest)["model"], state(step)["model"])
        assert checkpoint.load(folder / "last.pt")["step"] in (1, step)
        assert step == 2 or failing.failed
        checkpoint.save(folder, state(3), 3, keep=1)
        assert sorted(path.name for path in folder.iterdir()) == ["last.pt", "step_000000003.pt"]
        if not failing.failed:
            break
    assert first > 20


@pytest.fixture
def small_disk(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def free(disk: Path) -> int:
    """In pages."""
    return os.statvfs(disk).f_bavail


def test_on_a_disk_that_fills_up_anywhere_in_a_save_the_checkpoint_before_stays(small_disk):
    folder = small_disk / "checkpoints"
    page, large = os.sysconf("SC_PAGE_SIZE"), {"model": torch.ones(40_000)}
    outcomes = []
    for pages in range(0, 50, 2):
        checkpoint.save(folder, {"model": torch.zeros(40_000)}, 1, keep=1)
        (small_disk / "filler").write_bytes(bytes((free(small_disk) - pages) * page))
        complaint = complaint_of_a_save(folder, large, 2)
        assert "No space left" in complaint or not complaint
        outcomes.append(1 if complaint else 2)
        newest, complaints = checkpoint.newest_intact(folder)
        loaded = checkpoint.load(newest)
        assert (loaded["step"], complaints) == (outcomes[-1], [])
        assert torch.all(loaded["model"] == outcomes[-1] - 1)
        assert [path.name for path in folder.glob(".*")] == []
        for path in (small_disk / "filler", newest):
            path.unlink()
    assert outcomes == sorted(outcomes)
    assert len(set(outcomes)) == 2


def test_what_is_not_read_back_as_it_was_written_never_gets_its_name(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, state(1), 1, keep=1)
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: damage(read(path), "flipped", random.Random(0)))
    with pytest.raises(UserError, match="not what is read back"):
        checkpoint.save(tmp_path, state(2), 2, keep=1)
    monkeypatch.undo()
    assert checkpoint.load(checkpoint.newest_intact(tmp_path)[0])["step"] == 1


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    path = checkpoint.save(tmp_path, {"model": Evil()}, 1, keep=1)
    with pytest.raises(checkpoint.DamagedCheckpointError, match=r"code beside its data \(posix.mkdir\).* never run$"):
        checkpoint.load(path)
    assert not (tmp_path / "owned").exists()


def test_no_complaint_about_a_file_advises_to_run_what_is_in_it(tmp_path):
    """torch's own does: "Re-running torch.load with weights_only set to False will likely succeed"."""
    for content in (PurePosixPath("x"), print, Fraction(1, 2)):
        path = tmp_path / "step_000000001.pt"
        path.write_bytes(sealed({"format": 1, "step": 1, "x": content}))
        with pytest.raises(checkpoint.DamagedCheckpointError) as refused:
            checkpoint.load(path)
        assert "weights_only" not in str(refused.value)
