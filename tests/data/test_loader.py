"""Batches: the same on any number of workers and processes, from any step, with any images broken."""

import gc
import logging
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from simclr_dist.config.recipe import Data, Recipe
from simclr_dist.config.registry import method_keys
from simclr_dist.config.views import COLOR_FORMS
from simclr_dist.data.loading.batch import Batch
from simclr_dist.data.loading.batches import ALL_BROKEN, SUBSTITUTES, ViewBatches
from simclr_dist.data.loading.begun import Begun
from simclr_dist.data.loading.order import SampleOrder
from simclr_dist.data.loading.workers import _Loader, load_steps
from simclr_dist.data.preview import contact_sheet
from simclr_dist.data.rendering.renderers import RENDERERS
from simclr_dist.data.sources.base import ArraySource, BrokenImageError, ImageSource
from simclr_dist.data.sources.beton.encoding import Encoding
from simclr_dist.data.sources.beton.writer import write_beton
from simclr_dist.data.sources.files import FileSource
from simclr_dist.data.views.draws import draw_views
from simclr_dist.errors import UserError
from simclr_dist.log import log
from tests.support.images import open_source
from tests.support.two_sizes import NAME

IMAGES, BATCH, SIDE = 30, 8, 12
RECIPE = Recipe(seed=5, global_batch_images=BATCH, data=Data(source="digits", image_size=SIDE))
AFFINE = replace(RECIPE, views={"global": replace(RECIPE.views["global"], color_form="affine")})
BICUBIC = replace(RECIPE, views={"global": replace(RECIPE.views["global"], interpolation="bicubic")})
# Views of two sizes: the method's two large ones and five small ones, of which the small ones are bicubic.
TWO_SIZES = replace(RECIPE, method=replace(method_keys(NAME), crops=5), views={})
TWO_SIZES.views["small"].interpolation = "bicubic"
ORDER = SampleOrder(seed=RECIPE.seed, images=IMAGES, global_batch_images=BATCH)
STEPS = range(2 * ORDER.steps_per_epoch + 1)  # into the third epoch


class PartlyBroken(ArraySource):
    """Random images, some of which cannot be read."""

    def __init__(self, broken: frozenset[int] = frozenset()) -> None:
        pixels = np.random.default_rng(1).integers(0, 256, (IMAGES, 3, 15, 15), dtype=np.uint8)
        super().__init__(pixels, np.arange(IMAGES) * 7 % 10, [str(name) for name in range(10)])
        self.broken = broken

    def read(self, sample: int) -> Tensor:
        if sample in self.broken:
            raise BrokenImageError(f"image {sample}: broken by the test")
        return super().read(sample)


SOME = frozenset({0, 3, 11, 12, 13, 29})
MOST = frozenset(range(0, IMAGES, 3)) | frozenset(range(1, IMAGES, 3))  # two of three
EVERY = frozenset(range(IMAGES))


def batches(
    broken: frozenset[int] = frozenset(), rank: int = 0, processes: int = 1, recipe: Recipe = RECIPE
) -> ViewBatches:
    return ViewBatches(PartlyBroken(broken), recipe, ORDER, rank, processes)


def loaded(steps: range, workers: int, broken: frozenset[int] = frozenset(), recipe: Recipe = RECIPE) -> list[Batch]:
    return list(load_steps(batches(broken, recipe=recipe), steps, workers=workers, pin_memory=False))


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.views.keys() == b.views.keys()
        assert all(torch.equal(a.views[name], b.views[name]) for name in a.views)
        assert torch.equal(a.samples, b.samples)
        assert torch.equal(a.labels, b.labels)
        assert (a.epoch, a.seed, a.broken) == (b.epoch, b.seed, b.broken)


def together(shares: list[Batch]) -> Batch:
    """The batch of one process that several hold in parts."""
    return replace(
        shares[0],
        views={name: torch.cat([share.views[name] for share in shares]) for name in shares[0].views},
        samples=torch.cat([share.samples for share in shares]),
        labels=torch.cat([share.labels for share in shares]),
        broken=[met for share in shares for met in share.broken],
    )


def rendered(image: Tensor, recipe: Recipe, group: str, epoch: int, sample: int, first_view: int = 0) -> Tensor:
    """The views of one image in a group whose first has the number ``first_view``, drawn and rendered alone."""
    keys = recipe.views[group]
    return torch.stack(
        [
            RENDERERS["torchvision"].view(
                image, draw_views(keys, recipe.seed, epoch, np.array([sample]), view), 0, keys.size or SIDE,
                keys.color_form, keys.interpolation,
            )
            for view in range(first_view, first_view + keys.count)
        ]
    )  # fmt: skip


@cache
def views_of(sample: int, epoch: int) -> Tensor:
    """The two views of an image in an epoch, drawn and rendered alone."""
    return rendered(PartlyBroken().read(sample), RECIPE, "global", epoch, sample)


def test_a_batch_holds_the_views_of_the_images_of_its_step_in_order():
    for step in STEPS:
        batch = batches()[step]
        assert (batch.views["global"].shape, batch.views["global"].dtype) == ((BATCH, 2, 3, SIDE, SIDE), torch.uint8)
        assert batch.broken == []
        for row, sample in enumerate(ORDER.samples(step)):
            assert torch.equal(batch.views["global"][row], views_of(int(sample), ORDER.epoch(step)))


@pytest.mark.parametrize("recipe", [AFFINE, BICUBIC], ids=["affine", "bicubic"])
@pytest.mark.parametrize("renderer", RENDERERS)
def test_batches_and_the_contact_sheet_are_rendered_in_the_recipes_color_form_and_interpolation(renderer, recipe):
    batch = ViewBatches(PartlyBroken(), recipe, ORDER, renderer=RENDERERS[renderer])[0]
    for row, sample in enumerate(ORDER.samples(0)):
        image = PartlyBroken().read(int(sample))
        assert torch.equal(batch.views["global"][row], rendered(image, recipe, "global", 0, int(sample)))
    assert not torch.equal(batch.views["global"], batches()[0].views["global"])
    sheets = [contact_sheet(PartlyBroken(), each, 4, renderer=renderer) for each in (recipe, RECIPE)]
    assert not torch.equal(*sheets)


@pytest.mark.parametrize("color_form", COLOR_FORMS)
@pytest.mark.parametrize("workers", [0, 1])
def test_crops_with_their_colors_made_later_are_the_views(workers, color_form):
    recipe = AFFINE if color_form == "affine" else RECIPE
    whole = ViewBatches(PartlyBroken(SOME), recipe, ORDER, 1, 2)
    later = replace(whole, colors=False)
    for step, batch in enumerate(load_steps(later, range(4), workers=workers, pin_memory=False)):
        assert not torch.equal(batch.views["global"], whole[step].views["global"])
        made = batch.to(torch.device("cpu"))
        assert made.choices == {}
        assert_same([made], [whole[step]])


def test_the_two_views_of_an_image_differ_and_so_do_two_epochs():
    one = batches()[0].views["global"]
    assert not (one[:, 0] == one[:, 1]).all(dim=(1, 2, 3)).any()
    assert not torch.equal(views_of(3, 0), views_of(3, 1))


@pytest.mark.parametrize("broken", [frozenset(), SOME, MOST], ids=["none broken", "some broken", "most broken"])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing_to_the_bit(workers, broken):
    assert_same(loaded(STEPS, workers, broken), loaded(STEPS, 0, broken))


@pytest.mark.parametrize("broken", [frozenset(), SOME, MOST], ids=["none broken", "some broken", "most broken"])
@pytest.mark.parametrize("processes", [2, 4, 8])
def test_the_shares_of_all_processes_are_the_batch_of_one(processes, broken):
    for step in STEPS:
        shares = [batches(broken, rank, processes)[step] for rank in range(processes)]
        assert_same([together(shares)], [batches(broken)[step]])


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_views_of_two_sizes_are_numbered_over_the_groups_whatever_the_processes(processes):
    for step in range(4):
        batch = together([batches(SOME, rank, processes, TWO_SIZES)[step] for rank in range(processes)])
        assert {name: tuple(views.shape) for name, views in batch.views.items()} == {
            "large": (BATCH, 2, 3, SIDE, SIDE),
            "small": (BATCH, 5, 3, 8, 8),
        }
        for row, sample in enumerate(batch.samples.tolist()):
            image = PartlyBroken().read(sample)
            for first, name in ((0, "large"), (2, "small")):
                alone = rendered(image, TWO_SIZES, name, ORDER.epoch(step), sample, first)
                assert torch.equal(batch.views[name][row], alone)


@pytest.mark.parametrize("colors", [True, False], ids=["rendered", "crops"])
def test_workers_change_nothing_of_views_of_two_sizes(colors):
    whole = replace(batches(SOME, recipe=TWO_SIZES), colors=colors)
    loader = load_steps(whole, STEPS, workers=2, pin_memory=False)
    to = torch.device("cpu")
    assert_same([batch.to(to) for batch in loader], [batches(SOME, recipe=TWO_SIZES)[step].to(to) for step in STEPS])


@pytest.mark.parametrize("start", [1, ORDER.steps_per_epoch - 1, ORDER.steps_per_epoch, STEPS.stop - 1])
@pytest.mark.parametrize("workers", [0, 2])
def test_starting_at_a_later_step_gives_the_tail_of_the_whole(start, workers):
    assert_same(loaded(range(start, STEPS.stop), workers, SOME), loaded(STEPS, 0, SOME)[start:])


def test_no_steps_left_give_no_batches():
    assert loaded(range(4, 4), 1) == []


@pytest.mark.parametrize("broken", [SOME, MOST], ids=["some broken", "most broken"])
def test_a_broken_image_gives_both_views_of_another_image_that_is_whole(broken):
    for step in STEPS:
        epoch, batch = ORDER.epoch(step), batches(broken)[step]
        whole = {sample: views_of(sample, epoch) for sample in range(IMAGES) if sample not in broken}
        for row, sample in enumerate(ORDER.samples(step)):
            shown = [other for other, views in whole.items() if torch.equal(batch.views["global"][row], views)]
            assert shown == [int(sample)] if sample not in broken else len(shown) == 1


@pytest.mark.parametrize("broken", [SOME, MOST], ids=["some broken", "most broken"])
def test_every_broken_image_of_a_batch_is_reported_with_its_reason(broken):
    for step in STEPS:
        batch = batches(broken)[step]
        met = {sample for sample, _ in batch.broken}
        assert set(ORDER.samples(step).tolist()) & broken <= met <= broken
        assert all(reason == f"image {sample}: broken by the test" for sample, reason in batch.broken)


@pytest.mark.parametrize("broken", [frozenset(), SOME, MOST], ids=["none broken", "some broken", "most broken"])
def test_sample_ids_and_labels_are_those_of_the_images_shown(broken):
    replaced = 0
    for step in STEPS:
        batch, asked = batches(broken)[step], ORDER.samples(step)
        assert not broken & set(batch.samples.tolist())
        assert torch.equal(batch.labels, batch.samples * 7 % 10)
        for row, sample in enumerate(batch.samples.tolist()):
            assert torch.equal(batch.views["global"][row], views_of(sample, ORDER.epoch(step)))
        replaced += int((batch.samples.numpy() != asked).sum())
    assert bool(replaced) == bool(broken)


def test_a_source_without_classes_gives_no_labels():
    source = ArraySource(np.zeros((IMAGES, 3, 15, 15), dtype=np.uint8), None, [])
    assert ViewBatches(source, RECIPE, ORDER)[0].labels is None


def test_the_substitute_is_another_in_another_epoch_and_for_another_image():
    chosen = set()
    for epoch in range(6):
        for step in range(epoch * ORDER.steps_per_epoch, (epoch + 1) * ORDER.steps_per_epoch):
            batch = batches(SOME)[step]
            for row in np.flatnonzero(np.isin(ORDER.samples(step), list(SOME))):
                chosen |= {s for s in range(IMAGES) if torch.equal(batch.views["global"][row], views_of(s, epoch))}
    # About 29 substitutes from the 24 whole images: were they one for all, or one for each image, few would be seen.
    assert len(chosen) > len(SOME) + 4


def test_when_every_image_is_broken_that_is_reported_and_the_batch_keeps_its_shape():
    batch = batches(EVERY)[0]
    assert batch.views["global"].shape == (BATCH, 2, 3, SIDE, SIDE)
    assert [sample for sample, _ in batch.broken].count(ALL_BROKEN) == BATCH
    assert len(batch.broken) == BATCH * (SUBSTITUTES + 2)


def test_all_broken_is_no_id_of_an_image():
    assert ALL_BROKEN < 0


def test_an_error_that_is_not_a_broken_image_is_not_swallowed():
    class Failing(PartlyBroken):
        def read(self, sample: int) -> Tensor:
            raise MemoryError

    with pytest.raises(MemoryError):
        ViewBatches(Failing(), RECIPE, ORDER)[0]


@pytest.fixture
def running() -> Iterator[tuple[Iterator[Batch], list[Batch], list[multiprocessing.Process]]]:
    """A loader after its first batch, so that its workers are up: its iterator, that batch, the workers."""
    before = set(multiprocessing.active_children())
    iterator = iter(load_steps(batches(), range(40), workers=2, pin_memory=False))
    first = [next(iterator)]
    yield iterator, first, [process for process in multiprocessing.active_children() if process not in before]
    del iterator


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_workers_outlive_a_stop_signal_and_go_on(running, number):
    iterator, received, workers = running
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid, number)
    received += list(iterator)
    assert_same(received, [batches()[step] for step in range(40)])


class Damaged(PartlyBroken):
    def read(self, sample: int) -> Tensor:
        raise UserError("the file is damaged")


def test_an_error_that_no_substitute_cures_ends_the_workers_at_once():
    steps = load_steps(ViewBatches(Damaged(), RECIPE, ORDER), range(40), workers=2, pin_memory=False)
    with pytest.raises(UserError, match=r"^the file is damaged$"):
        list(steps)
    assert multiprocessing.active_children() == []


def one_set_in_every_form(folder: Path) -> dict[str, ImageSource]:
    """The same images as an array, as files, and in a .beton."""
    pixels = np.random.default_rng(1).integers(0, 256, (IMAGES, 3, 15, 15), dtype=np.uint8)
    (folder / "files").mkdir()
    names = [f"{number:03}.png" for number in range(IMAGES)]
    for name, image in zip(names, pixels, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / "files" / name)
    files = FileSource(folder / "files", names, None, [])
    write_beton(files, folder / "set.beton", Encoding(mode="raw"), workers=0)
    return {
        "array": ArraySource(pixels, None, []),
        "files": files,
        "beton": open_source(Data(source="beton", path=str(folder / "set.beton"))),
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_every_reader_gives_the_same_batches_on_any_number_of_processes_from_any_step(tmp_path, workers):
    expected = [batches()[step].views["global"] for step in STEPS]
    for source in one_set_in_every_form(tmp_path).values():
        for processes, start in ((1, 0), (2, 3), (4, 5)):
            shares = [
                load_steps(
                    ViewBatches(source, RECIPE, ORDER, rank, processes),
                    range(start, len(STEPS)),
                    workers=workers if rank == 0 else 0,
                    pin_memory=False,
                )
                for rank in range(processes)
            ]
            for images, *parts in zip(expected[start:], *shares, strict=True):
                assert torch.equal(torch.cat([part.views["global"] for part in parts]), images)


LONG_RUN = """
import multiprocessing, os, sys, threading, time
from simclr_dist.config.recipe import Data, Recipe
from simclr_dist.data.loading.batches import ViewBatches
from simclr_dist.data.loading.order import SampleOrder
from simclr_dist.data.loading.workers import _Loader, load_steps
from tests.support.images import open_source

def megabytes():
    total = 0
    for process in [os.getpid(), *(child.pid for child in multiprocessing.active_children())]:
        with open(f"/proc/{process}/smaps_rollup") as file:
            total += next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    return total / 1024

recipe = Recipe(global_batch_images=16, data=Data(source="beton", path=sys.argv[1], image_size=32))
source = open_source(recipe.data)
order = SampleOrder(seed=0, images=len(source), global_batch_images=16)
batches = ViewBatches(source, recipe, order)
loader = load_steps(batches, range(100 * order.steps_per_epoch), workers=1, pin_memory=False)
for step, _ in enumerate(loader):
    if step == 10 * order.steps_per_epoch:
        early = megabytes()
late = megabytes()
before = threading.active_count()
for _ in range(20):
    abandoned = load_steps(batches, range(1000), workers=1, pin_memory=False)
    next(abandoned)
    del abandoned
for _ in range(100):  # torch's queues end their threads in their own time
    if threading.active_count() > before or multiprocessing.active_children():
        time.sleep(0.1)
print(late - early, threading.active_count() - before, len(multiprocessing.active_children()), flush=True)
# numba's compiler may keep a caller's frame, and with it a loader, beyond the caller's end.
begun, untouched = (load_steps(batches, range(1000), workers=1, pin_memory=False) for _ in range(2))
next(begun)
"""


def test_100_epochs_hold_their_memory_20_abandoned_ones_leave_nothing_and_a_process_ends_with_loaders_open(tmp_path):
    one_set_in_every_form(tmp_path)
    command = [sys.executable, "-c", LONG_RUN, str(tmp_path / "set.beton")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    growth, threads, processes = (float(word) for word in done.stdout.split())
    assert growth < 4  # MB; a view pair of 16 images is 0.1
    assert (threads, processes) == (0, 0)


def test_killed_workers_are_replaced_and_no_batch_is_lost_or_changed(running, caplog):
    iterator, received, workers = running
    for worker in workers:
        worker.kill()
    received += list(iterator)
    assert_same(received, [batches()[step] for step in range(40)])
    assert "a loader worker ended, killed by SIGKILL; workers start again from its batch" in caplog.text


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs the states of processes in /proc")
def test_a_worker_that_stands_still_before_it_begins_is_replaced_and_the_batches_are_the_same(monkeypatch, caplog):
    """As a copy of a process that asks for a lock which a thread held at the fork, and no thread gives back."""
    forks, begin = mmap.mmap(-1, 1), torch.utils.data._utils.worker._worker_loop

    def stands_still_at_first(*arguments):
        forks[0] += 1
        if forks[0] == 1:
            signal.pause()
        begin(*arguments)

    monkeypatch.setattr("torch.utils.data._utils.worker._worker_loop", stands_still_at_first)
    monkeypatch.setattr("simclr_dist.data.loading.begun._LOOKS", 2)
    replaced = load_steps(batches(), range(4), workers=1, pin_memory=False, timeout_seconds=15)
    assert_same(list(replaced), loaded(range(4), workers=0))
    assert forks[0] == 2
    assert "a loader worker ended, killed, as it stood still before it began; workers start again" in caplog.text
    assert multiprocessing.active_children() == []


def spin() -> None:
    while True:
        pass


def test_a_worker_that_has_begun_may_sleep_and_one_that_has_not_may_be_busy():
    begun = Begun(2)
    begun.note(0)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=signal.pause), context.Process(target=spin)]
    try:
        for each in workers:
            each.start()
        assert all(begun.standing(workers) == [] for _ in range(10))
    finally:
        for each in workers:
            each.kill()
            each.join()


class Opened(PartlyBroken):
    """Holds what no pickle takes."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def test_how_workers_ended_is_told_though_torchs_handler_speaks_while_they_are_joined(running, monkeypatch):
    iterator, _, workers = running
    for worker in workers:
        worker.kill()
        worker.join()

    def told_by_the_handler(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(type(workers[0]), "join", told_by_the_handler)
    loader = SimpleNamespace(_iterator=SimpleNamespace(_workers=workers))
    assert _Loader._how_they_ended(loader) == "killed by SIGKILL"
    monkeypatch.undo()
    iterator.close()


def test_workers_begin_as_copies_of_the_process_whatever_python_starts_by_default():
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("forkserver", force=True)  # Python 3.14's own choice
    try:
        steps = load_steps(ViewBatches(Opened(), RECIPE, ORDER), range(2), workers=1, pin_memory=False)
        assert_same(list(steps), loaded(range(2), workers=0))
    finally:
        multiprocessing.set_start_method(before, force=True)


class Deadly(PartlyBroken):
    def read(self, sample: int) -> Tensor:
        os.kill(os.getpid(), signal.SIGSEGV)
        return super().read(sample)


def deadly() -> ViewBatches:
    made = ViewBatches(Deadly(), RECIPE, ORDER)
    return replace(made, renderer=RENDERERS["torchvision"])


def test_workers_that_die_again_and_again_end_the_batches_with_the_reason():
    with pytest.raises(UserError, match=r"ended 3 times before a batch was made, the last killed by SIGSEGV"):
        list(load_steps(deadly(), range(4), workers=1, pin_memory=False))
    assert multiprocessing.active_children() == []


def test_the_death_of_a_worker_interrupts_nothing_but_the_wait_for_a_batch(monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.signal_handling._SIGCHLD_handler_set", False)
    handler = signal.getsignal(signal.SIGCHLD)
    steps = load_steps(deadly(), range(4), workers=1, pin_memory=False)
    assert signal.getsignal(signal.SIGCHLD) is handler
    for worker in multiprocessing.active_children():
        worker.join()  # torch's own handler would raise here
    steps.close()


class Hanging(PartlyBroken):
    """A storage that does not answer."""

    def read(self, sample: int) -> Tensor:
        signal.pause()
        return super().read(sample)


@pytest.mark.parametrize("stopped", [False, True], ids=["for its time", "until the run shall stop"])
def test_a_batch_that_never_comes_is_waited_for(stopped):
    steps = load_steps(
        ViewBatches(Hanging(), RECIPE, ORDER), range(4), workers=1, pin_memory=False,
        is_stopped=lambda: stopped, timeout_seconds=60 if stopped else 0.5,
    )  # fmt: skip
    if stopped:
        assert list(steps) == []
    else:
        with pytest.raises(UserError, match=r"no batch came in 0 s .*machine\.batch_timeout_seconds"):
            list(steps)
    assert multiprocessing.active_children() == []


def full(*_: object, **__: object) -> None:
    raise RuntimeError("unable to write to file: No space left on device (28)")


def test_without_room_in_shared_memory_the_same_batches_come_through_files(monkeypatch, tmp_path):
    expected = loaded(STEPS, 0, SOME)
    said = logging.FileHandler(tmp_path / "said.txt")
    monkeypatch.setattr(log, "handlers", [said])
    monkeypatch.setattr(Tensor, "share_memory_", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert_same(loaded(STEPS, 2, SOME), expected)
    assert [file.name for file in tmp_path.iterdir() if file.suffix != ".lock"] == ["said.txt"]
    assert (tmp_path / "said.txt").read_text().count("/dev/shm has no room for a batch") == 1
    said.close()


def test_a_batch_that_fits_nowhere_ends_with_the_line(monkeypatch, tmp_path):
    monkeypatch.setattr(Tensor, "share_memory_", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"^a batch fits neither into /dev/shm \(.*\) nor into .*loader_workers=0$"):
        loaded(range(2), 1)


def test_workers_that_cannot_start_are_told_with_what_may_be_used_up(monkeypatch):
    def no_room(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    tracebacks: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", tracebacks.append)
    for queue in ("multiprocessing.context.BaseContext.Queue", "torch.multiprocessing.Queue"):
        monkeypatch.setattr(queue, no_room)
    with pytest.raises(UserError, match=r"loader workers cannot start \(No space left on device\): /dev/shm") as told:
        loaded(range(2), 1)
    del told
    gc.collect()
    assert tracebacks == []
