"""What a training has to do with the processes that send its metrics."""

import sys

import pytest

from simclr_dist.config.tracking import Tracking, Wandb
from simclr_dist.errors import UserError
from simclr_dist.run import trackers
from simclr_dist.run.trackers import Trackers, refuse_missing

WANTED = Tracking(wandb=Wandb(project="p"))


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Trackers whose process runs a shell script instead."""

    def start(script):
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        return Trackers(tmp_path, WANTED)

    return start


def warnings(logged):
    return [message for message in logged if message.startswith("tracking warning")]


def test_a_tracker_that_hangs_holds_up_no_step_and_the_end_only_so_long(started, logged, monkeypatch):
    monkeypatch.setattr(trackers, "_PATIENCE_SECONDS", 0.2)
    running = started("exec sleep 1000")
    (process,) = running._processes.values()
    for _ in range(1000):
        running.poll()
    running.close()
    assert process.returncode is not None
    (warning,) = warnings(logged)
    assert "has not sent all" in warning
    assert "simclr-dist track" in warning


def test_a_tracker_that_dies_is_one_line_and_no_error(started, logged):
    running = started("echo reached; exit 3")
    (process,) = running._processes.values()
    process.wait()
    for _ in range(3):
        running.poll()
    running.close()
    assert "tracking: wandb: reached" in logged
    (warning,) = warnings(logged)
    assert "status 3" in warning


def test_a_tracker_hears_of_the_end_and_is_waited_for(started, logged):
    running = started("read word; echo heard $word")
    running.close()
    assert "tracking: wandb: heard end" in logged
    assert warnings(logged) == []


def test_one_that_cannot_be_started_is_one_line(tmp_path, monkeypatch, logged):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    running = Trackers(tmp_path, WANTED)
    running.poll()
    running.close()
    (warning,) = warnings(logged)
    assert "cannot be started" in warning


def test_a_package_that_is_missing_is_refused_by_its_key_even_where_a_folder_has_its_name(tmp_path, monkeypatch):
    refuse_missing(Tracking())
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(UserError, match=r"machine\.tracking\.wandb\.project: .*simclr_dist\[wandb\]"):
        refuse_missing(WANTED)
