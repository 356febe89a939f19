"""How the command begins: with closed streams, interrupted while it is imported; and how it ends."""

import subprocess
import sys

import pytest

from simclr_dist.errors import UserError
from simclr_dist.progress_bar import said_when_slow, showing_progress, ticking


def python(code: str, redirected: str = "") -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that runs ``code``, its streams closed or joined as the shell's ``redirected`` says."""
    words = ["sh", "-c", f'"$0" -c "$1" {redirected}', sys.executable, code]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_with_closed_streams_a_mistake_has_its_status_and_no_file_takes_their_place(tmp_path, closed):
    start = "import sys; from simclr_dist.__main__ import main\nsys.argv = ['', 'config', 'nosuch']\n"
    assert python(f"{start}main()", closed).returncode == 2
    opened = f"try: main()\nexcept SystemExit: sys.exit(open({str(tmp_path / 'file')!r}, 'w').fileno() + 100)"
    assert python(start + opened, closed).returncode >= 103


def test_without_a_stream_of_errors_progress_is_shown_nowhere(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with said_when_slow("loading", after_seconds=0), showing_progress(2) as update, ticking("adding numbers"):
        update(2)


@pytest.mark.parametrize(
    ("words", "slow", "told"),
    [
        (["plan", "digits_demo", "--gpus", "2", "--gpu-memory", "8GB"], "planning.plan.make_plan", "tracing the step"),
        (["data", "bench", "digits_demo"], "data.loading.throughput.loader_rate", "measuring the loader"),
        (["data", "bench", "digits_demo", "machine.loader_workers=0", "--seconds=0"],
         "data.loading.throughput.stage_table", "measuring each stage"),
        (["verify"], "verification.certificate.certify", "computing what is promised"),
        (["doctor"], "doctor.examination._of_host", "examining this machine"),
    ],
    ids=lambda given: given if isinstance(given, str) else given[0],
)  # fmt: skip
@pytest.mark.parametrize("on_terminal", [True, False])
def test_what_is_computed_for_long_is_said_on_a_terminal_and_only_there(
    run, monkeypatch, words, slow, told, on_terminal
):
    def takes_long(*_: object, **__: object) -> None:
        raise UserError("nothing comes of it")

    monkeypatch.setattr(f"simclr_dist.{slow}", takes_long)
    monkeypatch.setattr("simclr_dist.progress_bar.errors_on_terminal", lambda: on_terminal)
    status, _, err = run(*words)
    assert (status, "nothing comes of it" in err) == (2, True)
    assert (told in err) == on_terminal


def test_a_process_without_streams_ends_at_once_with_its_status():
    code = "import sys; from simclr_dist.distributed.ending import end_now; sys.stdout = sys.stderr = None; end_now(7)"
    assert python(code).returncode == 7


@pytest.mark.parametrize("streams", [(1,), (1, 2)], ids=["output", "both"])
def test_a_reader_who_has_gone_changes_neither_what_is_done_nor_its_status(tmp_path, streams):
    done = tmp_path / "done"
    ended = python(
        "import os\nfrom pathlib import Path\nfrom simclr_dist.cli.main import command, main\n"
        "from simclr_dist.terminal import say\n"
        "@command.command('work')\n"
        "def work():\n"
        f"    written = [say(text, err=err) for err in {[number == 2 for number in streams]} for text in 'ab']\n"
        f"    Path({str(done)!r}).write_text(repr(written))\n"
        "    return 75\n"
        f"reader, writer = os.pipe()\nos.close(reader)\n[os.dup2(writer, number) for number in {streams}]\n"
        "main(['work'])"
    )
    assert (ended.returncode, ended.stderr) == (75, "")
    assert done.read_text() == repr([False, True] * len(streams))


def test_ctrl_c_while_the_command_is_imported_ends_it_without_a_word():
    ended = python(
        "import sys\nfrom importlib.abc import MetaPathFinder\n"
        "class Interrupted(MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'click': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from simclr_dist.__main__ import main\nmain()"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")
