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

import simclr_dist
from simclr_dist.errors import UserError
from simclr_dist.run import checkpoint
from simclr_dist.run.newest import load_newest, set_aside
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


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_file_system_without_symlinks_costs_no_save(tmp_path, monkeypatch, logged, hard_links):
    def refused(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    checkpoint.save(tmp_path, state(1), 1, keep=1)
    monkeypatch.setattr(Path, "symlink_to", refused)
    if not hard_links:
        monkeypatch.setattr(Path, "hardlink_to", refused)
    for step in (2, 3):
        checkpoint.save(tmp_path, state(step), step, keep=1)
    last = ["last.pt"] if hard_links else []
    assert sorted(path.name for path in tmp_path.iterdir()) == [*last, "step_000000003.pt"]
    assert len([line for line in logged if "last.pt cannot be made: Operation not supported" in line]) == 1 - len(last)
    if hard_links:
        assert checkpoint.load(tmp_path / "last.pt")["step"] == 3


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
        newest = load_newest(tmp_path)
        assert newest.path == good
        (complaint,) = newest.complaints
        assert complaint.startswith(f"{bad}: ")
        assert bad.exists()  # who only reads renames nothing
        set_aside(newest.damaged)
        assert aside.exists()
        assert not bad.exists()
        aside.unlink()


def test_the_only_checkpoint_is_left_in_place_when_damaged(tmp_path):
    path = checkpoint.save(tmp_path, state(1), 1, keep=3)
    path.write_bytes(b"")
    assert load_newest(tmp_path).path is None
    assert path.exists()


def test_a_checkpoint_of_a_newer_version_is_refused_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    path = checkpoint.save(tmp_path, state(1), 1, keep=1)
    monkeypatch.undo()
    for read in (checkpoint.load, lambda path: load_newest(path.parent)):
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
        found = load_newest(folder)
        newest, complaints = found.path, found.complaints
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
        found = load_newest(folder)
        newest, complaints = found.path, found.complaints
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
    assert checkpoint.load(load_newest(tmp_path).path)["step"] == 1


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    path = checkpoint.save(tmp_path, {"model": Evil()}, 1, keep=1)
    with pytest.raises(checkpoint.DamagedCheckpointError, match=r"code beside its data \(posix.mkdir\).* never run$"):
        checkpoint.load(path)
    assert not (tmp_path / "owned").exists()


def failing_reads(monkeypatch, path: Path, errors: list[BaseException]) -> None:
    """The next reads of a file fail, one for each error."""
    read = Path.read_bytes

    def read_bytes(asked: Path) -> bytes:
        if asked == path and errors:
            raise errors.pop(0)
        return read(asked)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr(checkpoint, "_SECONDS_BETWEEN_ATTEMPTS", 0)


def system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE])
def test_a_read_that_fails_once_is_tried_again_and_is_no_damage(tmp_path, monkeypatch, number):
    for step in (1, 2):
        newest = checkpoint.save(tmp_path, state(step), step, keep=3)
    failing_reads(monkeypatch, newest, [system_error(number)])
    assert load_newest(tmp_path).path == newest


@pytest.mark.parametrize("error", [system_error(errno.EIO), MemoryError()], ids=repr)
def test_a_checkpoint_that_cannot_be_read_is_left_alone_and_no_older_one_takes_its_place(tmp_path, monkeypatch, error):
    for step in (1, 2):
        newest = checkpoint.save(tmp_path, state(step), step, keep=3)
    failing_reads(monkeypatch, newest, [error] * 9)
    with pytest.raises(UserError, match=rf"^{newest}: .*(cannot be read: Input/output error|not enough memory)"):
        load_newest(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_000000001.pt", "step_000000002.pt"]


def test_too_little_memory_for_its_tensors_is_no_damage(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, state(1), 1, keep=3)

    def load(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 94371840 bytes")

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(UserError, match="not enough memory"):
        load_newest(tmp_path)


def test_a_folder_that_cannot_be_listed_is_not_taken_for_one_without_checkpoints(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, state(1), 1, keep=3)

    def listdir(_: Path) -> list[str]:
        raise system_error(errno.ESTALE)

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(UserError, match=f"^{tmp_path}: cannot be read: Stale file handle"):
        load_newest(tmp_path)


def test_a_checkpoint_removed_by_its_run_while_the_folder_is_read_is_looked_for_anew(tmp_path, monkeypatch):
    first = checkpoint.save(tmp_path, state(1), 1, keep=3)

    def read_bytes(path: Path) -> bytes:
        monkeypatch.undo()
        checkpoint.save(tmp_path, state(2), 2, keep=1)
        return path.read_bytes()

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert load_newest(tmp_path).path == checkpoint.path_of(tmp_path, 2)
    assert not first.exists()


def test_a_checkpoint_is_believed_by_its_contents_and_not_by_its_name(tmp_path):
    checkpoint.save(tmp_path, state(1), 1, keep=3)
    renamed = tmp_path / "step_000000009.pt"
    checkpoint.save(tmp_path, state(2), 2, keep=3).rename(renamed)
    with pytest.raises(UserError, match=r"name says step 9, and it is of step 2; rename it to step_000000002\.pt"):
        load_newest(tmp_path)
    renamed.rename(tmp_path / "step_2.pt")
    assert load_newest(tmp_path).path == tmp_path / "step_2.pt"


def test_names_without_leading_zeros_are_ordered_by_their_steps(tmp_path):
    for step, name in ((9, "step_9.pt"), (10, "step_10.pt")):
        checkpoint.save(tmp_path, state(step), step, keep=3).rename(tmp_path / name)
    assert load_newest(tmp_path).state["step"] == 10


def test_what_is_passed_over_is_said_even_when_it_was_set_aside_before(tmp_path):
    for step in (1, 2, 3):
        path = checkpoint.save(tmp_path, state(step), step, keep=3)
    assert load_newest(tmp_path).passed_over() == ""
    path.write_bytes(b"")
    set_aside(load_newest(tmp_path).damaged)
    checkpoint.path_of(tmp_path, 2).write_bytes(b"")
    said = load_newest(tmp_path).passed_over()
    assert said.startswith("step_000000001.pt is used, which is not the newest: ")
    assert "step_000000002.pt: no checksum" in said
    assert "step_000000003.pt.damaged: set aside" in said


def test_a_link_to_an_older_checkpoint_is_said_to_be_older(tmp_path, monkeypatch):
    for step in (1, 2):
        checkpoint.save(tmp_path, {"recipe": {}, "model": {}}, step, keep=3)
    (tmp_path / "last.pt").unlink()
    (tmp_path / "last.pt").symlink_to("step_000000001.pt")
    said = []
    monkeypatch.setattr("simclr_dist.weights.read.log.warning", lambda text, *values: said.append(text % values))
    with pytest.raises(UserError):  # there is no encoder in it
        simclr_dist.load_encoder(str(tmp_path / "last.pt"))
    assert said == [f"{tmp_path}: last.pt points at step 1, and step_000000002.pt is newer"]


def test_no_complaint_about_a_file_advises_to_run_what_is_in_it(tmp_path):
    """torch's own does: "Re-running torch.load with weights_only set to False will likely succeed"."""
    for content in (PurePosixPath("x"), print, Fraction(1, 2)):
        path = tmp_path / "step_000000001.pt"
        path.write_bytes(sealed({"format": 1, "step": 1, "x": content}))
        with pytest.raises(checkpoint.DamagedCheckpointError) as refused:
            checkpoint.load(path)
        assert "weights_only" not in str(refused.value)
