"""How the command begins: with closed streams, interrupted while it is imported; and how it ends."""

import subprocess
import sys

import pytest

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


def test_a_process_without_streams_ends_at_once_with_its_status():
    code = "import sys; from simclr_dist.distributed.ending import end_now; sys.stdout = sys.stderr = None; end_now(7)"
    assert python(code).returncode == 7


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
