"""What reaches a terminal: every letter as it is, and nothing that a terminal obeys."""

import ast
import logging
import os
import pty
import re
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

import simclr_dist
from simclr_dist.cli import main as command_line
from simclr_dist.errors import UserError
from simclr_dist.log import log, log_to
from simclr_dist.terminal import printable, say, typed

PACKAGE = Path(simclr_dist.__file__).parent


@pytest.mark.parametrize(
    "text",
    ["ひらがな", "naïve 猫.png", "a  b", "'\"$(x)`;#%", "👩\N{ZERO WIDTH JOINER}🔬", "C:\\x", "a\N{NO-BREAK SPACE}"],
)
def test_letters_stay_what_they_are(text):
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),  # the same as ESC [ in one byte
        ("gone\rhere\b", r"gone\rhere\x08"),
        ("a\nb", r"a\nb"),
        ("exe.\u202egnp", r"exe.\u202egnp"),
        ("\u2066x\u2028", r"\u2066x\u2028"),
        ("\udcff.png", r"\udcff.png"),
        ("a\0b\x7f", r"a\x00b\x7f"),
    ],
)
def test_what_a_terminal_would_obey_is_spelt(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown


def test_lines_and_tabs_of_an_answer_stay_and_the_rest_of_it_is_spelt(capsys):
    say("a\tb\nc\x1b[31m")
    say("x\x07", err=True)
    assert capsys.readouterr() == ("a\tb\nc\\x1b[31m\n", "x\\x07\n")


def test_a_terminal_that_knows_few_letters_is_told_the_others_in_ascii(monkeypatch):
    stream = TextIOWrapper(BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    say("猫.png")
    stream.flush()
    assert stream.buffer.getvalue() == b"\\u732b.png\n"


def test_a_line_on_its_way_to_a_terminal_that_hangs_up_is_no_error_and_neither_are_those_after_it(monkeypatch):
    main, terminal = pty.openpty()
    with open(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert say("one", err=True)
        os.close(main)
        assert not say("two", err=True)
        assert say("three", err=True)


def test_the_log_spells_what_a_terminal_would_obey_on_the_terminal_and_in_its_file(tmp_path, capsys):
    handlers = list(log.handlers)
    try:
        log_to(tmp_path)
        log.warning("broken: %s", "猫\x1b]0;x\x07.png")
    finally:
        for handler in log.handlers:
            handler.close()
        log.handlers[:] = handlers
        log.setLevel(logging.NOTSET)
        log.propagate = True
    assert capsys.readouterr().err == "broken: 猫\\x1b]0;x\\x07.png\n"
    assert "broken: 猫\\x1b]0;x\\x07.png\n" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_a_complaint_is_one_line_that_keeps_the_blanks_of_a_name_and_spells_the_rest(monkeypatch, capsys):
    def fail(*_: object, **__: object) -> None:
        raise UserError("a  b\x1b[2J.yaml: first\n   second")

    monkeypatch.setattr(command_line.command, "main", fail)
    with pytest.raises(SystemExit) as left:
        command_line.main([])
    assert left.value.code == 2
    assert capsys.readouterr().err == "simclr-dist: a  b\\x1b[2J.yaml: first second\n"


@pytest.mark.parametrize("name", ["my", "a b", "$(touch x)", "`x`", "it's", 'q"', "#1 %j", "-n", "猫"])
def test_a_command_that_is_shown_can_be_copied_into_a_shell(name):
    line = typed("evaluate", Path("runs") / name, "--on", name).removeprefix("simclr-dist ")
    shown = subprocess.run(["sh", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == ["evaluate", f"runs/{name}", "--on", name]


def test_no_message_puts_a_name_into_a_command_unquoted():
    found = []
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE / "launch").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                words = "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                if re.search("simclr-dist [a-z][a-z -]*\0", words):
                    found.append(f"{path.relative_to(PACKAGE)}: {words!r}")
    assert found == []


def test_nothing_else_in_the_package_writes_to_a_terminal():
    """No print, no click.echo, no sys.stdout.write: each would be a way past ``say``."""
    found = []
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE / "launch").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("print", "click.echo", "click.secho", "traceback.print_exc") or called.endswith(
                    ("stdout.write", "stderr.write")
                ):
                    found.append(f"{path.relative_to(PACKAGE)}: {called}")
    assert set(found) == {"terminal.py: click.echo"}
