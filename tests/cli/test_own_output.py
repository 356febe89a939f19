"""A command replaces what it has written itself and nothing else, and shows what it cannot write."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from simclr_dist.cli import evaluation_calls
from simclr_dist.errors import UserError
from simclr_dist.storage.own_output import SOFTWARE
from tests.support.commands import complaint, run_command
from tests.support.full_disk import no_file_above

COMMANDS = [
    ("preview", ["digits_demo", "--images", "1", "--out"], "views.png"),
    ("plan", ["digits_demo", "--gpus", "1", "--card", "h100", "--out"], "plan.png"),
    ("doctor", ["--dir", ".", "--json"], "found.json"),
]


@pytest.mark.parametrize(("command", "words", "name"), COMMANDS)
def test_only_a_file_of_its_own_is_replaced(tmp_path, monkeypatch, capsys, command, words, name):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / name
    if out.suffix == ".json":
        out.write_text(json.dumps({"mine": 1}))
    else:
        Image.new("RGB", (4, 4), "red").save(out)
    before = out.read_bytes()
    status, _, told = run_command(capsys, command, *words, out)
    assert (status, out.read_bytes()) == (2, before)
    assert f"{out} is there and is no" in complaint(told)
    out.unlink()
    assert run_command(capsys, command, *words, out)[0] in (0, 1)  # doctor: 1 where it has found something
    written = out.read_bytes()
    assert run_command(capsys, command, *words, out)[0] in (0, 1)
    assert (out.read_bytes() == written) == (out.suffix == ".png")


@pytest.mark.parametrize(
    ("command", "words", "name", "shown"),
    [(*COMMANDS[0], ""), (*COMMANDS[1], "fits, "), (*COMMANDS[2], "processes")],
    ids=[command for command, *_ in COMMANDS],
)
def test_on_a_full_disk_what_was_found_is_shown_and_the_file_before_stays(
    tmp_path, monkeypatch, capsys, command, words, name, shown
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("simclr_dist.doctor.examination._of_host", lambda folder: [])
    out = tmp_path / name
    if out.suffix == ".json":
        out.write_text(json.dumps({"findings": "those before"}))
    else:
        described = PngImagePlugin.PngInfo()
        described.add_text("Software", SOFTWARE)
        Image.new("RGB", (4, 4), "red").save(out, pnginfo=described)
    before = out.read_bytes()
    with no_file_above(200):
        status, printed, told = run_command(capsys, command, *words, out)
    assert status == 2
    assert "File too large" in told
    assert shown in printed
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


class Found:
    """A result that no disk takes."""

    method, steps_done = "knn", 7

    def table(self) -> str:
        return "a table"

    def write(self, run_dir: Any) -> Any:
        raise OSError(28, "No space left on device")


def test_a_result_that_cannot_be_written_is_shown_all_the_same(tmp_path, capsys):
    context = SimpleNamespace(data=SimpleNamespace(source="digits"), unfinished=None)
    with pytest.raises(UserError, match="this result cannot be written: No space left on device"):
        evaluation_calls._written(context, Found(), tmp_path, "10 test images")
    assert capsys.readouterr().out == "knn on digits, 10 test images, after 7 steps\na table\n"


def test_where_no_result_can_be_written_nothing_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setattr("simclr_dist.weights.read.load_encoder", lambda run: SimpleNamespace())
    with pytest.raises(UserError, match="no result can be written there"):
        evaluation_calls.opened(tmp_path, tmp_path, None, {"on": None, "checkpoint": None}, [], "knn")
