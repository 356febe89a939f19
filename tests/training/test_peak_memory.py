"""The line about the memory that a run has needed."""

import logging

import pytest
import torch

from simclr_dist.training.peak_memory import STEPS, PeakMemory


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 11 * 10**9)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 12 * 10**9)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (65 * 10**9, 80 * 10**9))
    return torch.device("cuda", 0)


def lines_of(peak: PeakMemory, caplog: pytest.LogCaptureFixture) -> list[int]:
    """After how many steps a line was there."""
    counts = []
    for _ in range(3 * STEPS):
        peak.after_step()
        counts.append(len(caplog.messages))
    return counts


def test_the_peaks_of_the_first_steps_on_a_gpu_are_said_once(gpu, caplog):
    caplog.set_level(logging.INFO, logger="simclr_dist")
    assert lines_of(PeakMemory(gpu, active=True), caplog) == [0] * (STEPS - 1) + [1] * (2 * STEPS + 1)
    assert "11 GB of tensors" in caplog.text
    assert "12 GB reserved" in caplog.text
    assert "15 GB in use of 80 GB" in caplog.text


def test_nothing_is_said_on_a_cpu_or_by_other_processes(gpu, caplog):
    caplog.set_level(logging.INFO, logger="simclr_dist")
    for peak in (PeakMemory(torch.device("cpu"), active=True), PeakMemory(gpu, active=False)):
        assert not any(lines_of(peak, caplog))
