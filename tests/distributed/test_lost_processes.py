"""A process that hangs or dies is named by the others, which end in time; so is one that fails by itself."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from simclr_dist import compat
from simclr_dist.data.loading.batch import blank_batch
from simclr_dist.distributed.agreement import all_or_none, decided_by_first
from simclr_dist.distributed.collectives import gather_stacked, maximum
from simclr_dist.distributed.processes import Processes, process_group
from simclr_dist.distributed.watchdog import progress
from simclr_dist.distributed.watchdog.diagnosis import diagnose, is_lost, store_lost
from simclr_dist.distributed.watchdog.heartbeats import LEFT, TIMED_OUT, WORKS, Heartbeat, HeartbeatStore
from simclr_dist.distributed.watchdog.monitor import LostProcesses
from simclr_dist.distributed.watchdog.progress import Progress
from simclr_dist.errors import AgreedError, UserError
from simclr_dist.losses.nt_xent import NTXentLoss
from simclr_dist.methods.build import build_method
from simclr_dist.models.batch_norm import GroupedBatchNorm, average_running_statistics
from simclr_dist.models.statistics_group import divide_batch_norm
from simclr_dist.training.gradients import compute_gradients
from tests.support.groups import die, hang, started, wait_until_heard, written
from tests.support.processes import Running, pretrain_here, run_distributed, tiny_config

CPU = torch.device("cpu")
TIMEOUT_SECONDS = 4
STEP = 3  # in which the victim is lost


def boom() -> None:
    raise ValueError("boom")


FATES = {
    "stopped": lambda: die(signal.SIGSTOP),
    "killed": lambda: die(signal.SIGKILL),
    "hangs": hang,
    "fails": boom,
}


def walk(rank: int, count: int, victim: int, fate: str, met: Path) -> tuple[str, float]:
    """Steps of one collective; the victim meets its fate in one of them. How it ended here, and after how long."""
    since = time.monotonic()
    try:
        with process_group(Processes(rank, count, 0, 1), CPU, TIMEOUT_SECONDS):
            for step in range(1, 100):
                progress.begin_step(step)
                since = time.monotonic()
                if rank == victim and step == STEP:
                    wait_until_heard()
                    FATES[fate]()
                gather_stacked(torch.ones(2), label="rows of the loss")
                met.with_name(f"{met.name}_{rank}").touch()
    except (UserError, ValueError) as error:
        return str(error), time.monotonic() - since
    return "went on", 0.0


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, int], list[Running]]]:
    """Processes by fate and victim: several groups at once, as they wait most of the time."""
    met = tmp_path_factory.mktemp("met")
    with ExitStack() as stack:
        of_fates = {}
        for fate in FATES:
            for victim in (1, 0):
                for attempt in range(3):
                    folder = None if victim else tmp_path_factory.mktemp("meeting")
                    words = (victim, fate, met / f"{fate}_{victim}_{attempt}")
                    processes = stack.enter_context(started(3, walk, *words, folder=folder))
                    if have_met(processes, words[-1]):
                        break
                of_fates[fate, victim] = processes
        yield of_fates


def have_met(processes: list[Running], met: Path) -> bool:
    """Whether they do: torch asks for the name of every address, and an answer that is lost costs five seconds."""
    while len(list(met.parent.glob(f"{met.name}_*"))) < len(processes):
        if not any(process.processes[0].is_alive() for process in processes):
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize(
    ("fate", "expected"),
    [
        ("stopped", "process 1 on node1 has not answered for 4 s (machine.collective_timeout_seconds) and gave no sign "
         "of life for 2 s: it is stopped, or its node or it is gone; it was last heard of in step 3, its last "
         "collective 'rows of the loss'; process "),
        ("hangs", "process 1 on node1 has not answered for 4 s (machine.collective_timeout_seconds): it gives signs of "
         "life but hangs; it is in step 3, its last collective 'rows of the loss'; process "),
        ("killed", "process 1 on node1 has ended: it gave no sign of life for 2 s; it was last heard of in step 3, its "
         "last collective 'rows of the loss'; process "),
        ("fails", "process 1 on node1 has ended: ValueError: boom; start again"),
    ],
)  # fmt: skip
def test_a_lost_process_is_named_with_host_step_and_last_collective_by_all_others_in_time(walks, fate, expected):
    processes = walks[fate, 1]
    (first, seconds), (other, other_seconds) = processes[0].results()[0], processes[2].results()[0]
    if fate == "fails":
        assert processes[1].results()[0][0] == "boom"
    assert first == other
    assert first.startswith(expected)
    assert first.endswith("start again to resume from the last checkpoint")
    if fate != "fails":
        assert " waited in step 3, in 'rows of the loss'" in first
    assert max(seconds, other_seconds) < TIMEOUT_SECONDS + 10


@pytest.mark.parametrize(
    ("fate", "expected"),
    [
        ("stopped", "process 0 on node0 has not answered for 4 s (machine.collective_timeout_seconds), as the store"),
        ("killed", "process 0 on node0 has ended, as the store"),
        (
            "hangs",
            "process 0 on node0 has not answered for 4 s (machine.collective_timeout_seconds): it gives signs of",
        ),
        ("fails", "process 0 on node0 has ended: ValueError: boom; start again"),
    ],
)
def test_a_lost_process_is_named_when_it_holds_the_store(walks, fate, expected):
    (first, seconds), (other, other_seconds) = (process.results()[0] for process in walks[fate, 0][1:])
    assert first == other
    assert first.startswith(expected)
    if fate != "fails":
        assert " in step 3, its last collective 'rows of the loss'" in first
    assert max(seconds, other_seconds) < TIMEOUT_SECONDS + 15


def leave_together(rank: int, count: int) -> tuple[list[str], bool, str | None]:
    """What is published when all end by an agreed error; whether by one of their own; what a third group hears."""
    published: list[str] = []
    heard: list[str | None] = []
    publish, leave = HeartbeatStore.publish, LostProcesses.leave
    HeartbeatStore.publish = lambda store, line: published.append(line) or publish(store, line)  # type: ignore[method-assign]
    LostProcesses.leave = lambda lost: heard.append(lost.heard) or leave(lost)  # type: ignore[method-assign]
    here = Processes(rank, count, 0, 1)

    def meet(then: Callable[[], None]) -> None:
        with process_group(here, CPU, 60):
            gather_stacked(torch.ones(2))  # whoever leaves before would be lost to those who still connect
            then()

    def agree() -> None:
        raise AgreedError("all end")

    with pytest.raises(UserError, match="all end"):
        meet(agree)
    agreed = list(published)
    with pytest.raises(ValueError, match="boom"):
        meet(boom)
    written.clear()
    meet(wait_until_heard)
    return agreed, published != agreed, heard[-1]


def test_agreed_errors_and_normal_ends_are_nobodys_loss_and_the_next_group_begins_with_no_diagnosis():
    with started(2, leave_together) as processes:
        assert [process.results() for process in processes] == [[([], True, None)]] * 2


def beats(beat: int, begun: int = 5, state: str = WORKS, rank: int = 0) -> Heartbeat:
    return Heartbeat(beat, f"node{rank}", Progress(7, begun, "rows of the loss"), state)


@pytest.mark.parametrize(
    ("after", "expected", "lost"),
    [
        ([beats(9), beats(9), beats(9)], "none is behind: the network", False),
        (
            [beats(9), beats(1, 4), beats(9, 4)],
            "process 1 on node0 has ended: it gave no sign of life",
            True,
        ),
        (
            [beats(9), None, beats(9)],
            "process 1 has ended: it gave no sign of life for 3 s; nothing was heard",
            True,
        ),
        (
            [beats(9), beats(1, 4, LEFT), beats(9)],
            "process 1 on node0 has ended without an error before",
            False,
        ),
        (
            [beats(9), beats(9, 4), beats(9, state=TIMED_OUT)],
            "process 1 on node0 has not answered for 600 s",
            True,
        ),
        (
            [beats(9), beats(9, 4), beats(9, 4)],
            "process 1 on node0, 2 on node0 has closed its connections",
            True,
        ),
        (
            [beats(9, 4), beats(9), beats(9)],
            "none is behind",
            False,
        ),  # it is itself the one that the others miss
        (
            [beats(9), *[beats(1)] * 6],
            "process 1 on node0, 2 on node0, 3 on node0, 4 on node0 and 2 more has",
            True,
        ),
    ],
)
def test_who_is_lost_follows_from_two_readings_of_the_heartbeats(after, expected, lost):
    before = [beats(1)] * len(after)
    assert expected in diagnose(before, after, 0, seconds=3, timeout_seconds=600)
    assert is_lost(before, after, 0) == lost


def test_a_launchers_store_that_is_gone_says_nothing_but_that():
    line = store_lost(beats(1), 600, holder_ended=True, held_by_first=False)
    assert "which one cannot be found out" in line


def labels_of_collectives() -> tuple[list[str | None], Progress]:
    """What each collective is for, as noted when the backend is called; and the progress at the end."""
    noted: dict[int, str | None] = {}  # an exchange of objects is two calls, and one collective
    for module, name in ((compat, "all_gather_single"), (dist, "all_reduce"), (dist, "broadcast")):
        call = getattr(module, name)

        def noting(*arguments: Any, call: Any = call, **options: Any) -> Any:
            noted[progress.current().begun] = progress.current().collective
            return call(*arguments, **options)

        setattr(module, name, noting)
    progress.begin()
    norm = GroupedBatchNorm(4, statistics=divide_batch_norm(16, 16, 2))
    rows = norm(torch.randn(16, 4)).double()
    NTXentLoss(0.5)(rows[:8], rows[8:]).backward()
    average_running_statistics(norm)
    maximum([1.0])
    with all_or_none():
        pass
    decided_by_first(lambda: 1)
    return list(noted.values()), progress.current()


def test_every_collective_is_named_and_counted_alike_on_all_processes():
    names = [
        "batch norm (forward pass)", "row counts of the loss", "rows of the loss", "sums of the loss",
        "batch norm (backward pass)", "running statistics of batch norm", "the agreement at the start of a step",
        "the agreement that none failed", "a decision of process 0",
    ]  # fmt: skip
    assert run_distributed(2, labels_of_collectives) == [(names, Progress(None, len(names), names[-1]))] * 2


def test_one_process_counts_no_collectives():
    progress.begin()
    gather_stacked(torch.ones(2))
    maximum([1.0])
    assert progress.current() == Progress()


@pytest.mark.parametrize("chunk_images", [0, 1])
def test_the_backward_pass_has_a_label_of_its_own(tmp_path, chunk_images):
    recipe = tiny_config(tmp_path, "recipe.batch_norm_group_images=1").recipe
    method, seen = build_method(recipe, 2), []
    next(method.parameters()).register_hook(lambda gradient: seen.append(progress.current().collective))
    progress.begin()
    compute_gradients(method, method, blank_batch(recipe, 2, CPU), chunk_images=chunk_images)
    assert set(seen) == {"gradients (backward pass)"}


def progress_after_training(config: Any) -> Progress:
    pretrain_here(config)
    return progress.current()


def test_the_trainer_notes_its_step(tmp_path):
    one, other = run_distributed(2, progress_after_training, tiny_config(tmp_path, "machine.stop_after_steps=2"))
    assert one == other
    assert one.step == 2
