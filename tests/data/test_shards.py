"""Shards read: an order with locality that processes do not change, a bounded cache, servers that fail for a while."""

import multiprocessing
import os
import signal
import threading
import time
import tracemalloc
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from simclr_dist.config.recipe import Data, Recipe
from simclr_dist.config.shards import Shards
from simclr_dist.data.loading.batches import ViewBatches
from simclr_dist.data.loading.broken import BrokenImages, broken_files
from simclr_dist.data.loading.order import ShardOrder, build_order
from simclr_dist.data.loading.workers import load_steps
from simclr_dist.data.sources.named import open_source
from simclr_dist.data.sources.shards import fetched, patience, remote
from simclr_dist.data.sources.shards.cache import Refused, ShardCache
from simclr_dist.data.sources.shards.fetched import FetchedShards
from simclr_dist.data.sources.shards.source import ShardSource
from simclr_dist.data.sources.whole import image_name, without
from simclr_dist.errors import UserError
from simclr_dist.log import log
from tests.support.shards import Server, indexed, picture, serving, write_shards, write_tar

COUNTS = [5, 1, 9, 4, 7, 2, 6, 3, 8, 5]  # 50 samples in 10 shards
WINDOW = 3


def shard_order(counts: list[int], batch: int, window: int = WINDOW, seed: int = 3) -> ShardOrder:
    starts = np.cumsum([0, *counts], dtype=np.int64)
    return ShardOrder(seed=seed, images=int(starts[-1]), global_batch_images=batch, starts=starts, window_shards=window)


def epoch_of(order: ShardOrder, epoch: int) -> np.ndarray:
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    return np.concatenate([order.samples(step) for step in steps])


@pytest.mark.parametrize("batch", [1, 10, 25, 50])
@pytest.mark.parametrize("window", [1, 3, 100])
def test_each_sample_comes_once_an_epoch_whatever_the_window_and_the_batch(batch, window):
    order = shard_order(COUNTS, batch, window)
    for epoch in range(3):
        np.testing.assert_array_equal(np.sort(epoch_of(order, epoch)), np.arange(50))
    assert not np.array_equal(epoch_of(order, 0), epoch_of(order, 1))
    np.testing.assert_array_equal(epoch_of(order, 0), epoch_of(shard_order(COUNTS, 1, window), 0))


def test_a_window_is_read_to_its_end_before_the_next_one_begins():
    order = shard_order(COUNTS, 1)
    shards = np.searchsorted(order.starts, epoch_of(order, 0), side="right") - 1
    at = 0
    told = list(islice(order.shards_from(0), 10))
    for begin in range(0, 10, WINDOW):
        window = told[begin : begin + WINDOW]
        size = sum(COUNTS[shard] for shard in window)
        assert set(shards[at : at + size]) == set(window)
        if len(window) > 1:
            assert (np.diff(shards[at : at + size]) != 0).sum() > size / 4  # mixed, not one after another
        at += size
    assert at == 50


def test_windows_of_one_size_are_permuted_each_in_its_own_way():
    order = shard_order([8] * 6, 1)
    told = list(islice(order.shards_from(0), 6))
    place = {shard: number % WINDOW * 8 for number, shard in enumerate(told)}
    samples = epoch_of(order, 0)
    within = [place[sample // 8] + sample % 8 for sample in samples.tolist()]
    assert sorted(within[:24]) == sorted(within[24:]) == list(range(24))
    assert within[:24] != within[24:]


def test_what_is_told_to_come_holds_what_the_steps_read_into_the_next_epoch():
    order = shard_order(COUNTS, 10)
    for step in range(8):
        ahead = list(islice(order.shards_from(step), 10))
        for later in (step, step + 1):
            read = set((np.searchsorted(order.starts, order.samples(later), side="right") - 1).tolist())
            assert read <= set(ahead)
        assert len(set(islice(order.shards_from(step), 2 * WINDOW))) > WINDOW


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_the_shares_of_all_processes_are_the_global_batch(processes):
    order = shard_order(COUNTS, 12)
    for step in range(9):
        shares = [order.samples(step, rank, processes) for rank in range(processes)]
        np.testing.assert_array_equal(np.concatenate(shares), order.samples(step))


def test_ten_million_samples_in_shards_need_memory_for_the_shards_alone():
    counts = np.random.default_rng(0).integers(5000, 15000, 1000)
    order = shard_order(counts.tolist(), 4096, 16)
    tracemalloc.start()
    samples = order.samples(order.steps_per_epoch // 2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(np.unique(samples)) == 4096
    assert peak < 1_000_000


@pytest.fixture
def shards(tmp_path) -> Path:
    """A folder of tars; the index is in ``index`` beside it, ."""
    write_shards(tmp_path / "tars", COUNTS)
    return tmp_path / "tars"


def opened(path: Path, server: Server | None = None, gigabytes: float = 1.0, wait_seconds: int = 5) -> ShardSource:
    """The tars beside ``path``, through a server if there is one."""
    index = path.parent / ("index" if server is None else "remote")
    if not index.exists():
        indexed(path if server is None else server.url, index)
    cache = path.parent / "cache"
    keys = Shards(cache_folder=str(cache), cache_gigabytes=gigabytes, wait_seconds=wait_seconds)
    found = open_source(Data(source="webdataset", path=str(index), window_shards=WINDOW), keys)
    assert isinstance(found, ShardSource)
    return found


def batches(source: ShardSource, batch: int = 10, rank: int = 0, processes: int = 1) -> ViewBatches:
    recipe = Recipe(
        seed=5, global_batch_images=batch, data=Data(source="webdataset", image_size=8, window_shards=WINDOW)
    )
    return ViewBatches(source, recipe, build_order(recipe, source), rank, processes)


def test_batches_from_a_server_are_those_from_a_disk_on_any_number_of_processes(shards):
    local = batches(opened(shards), 12)
    expected = [local[step] for step in range(6)]  # into the second epoch
    with serving(shards) as server:
        remote = opened(shards, server)
        assert isinstance(remote.shards, FetchedShards)
        assert remote.fingerprint() == local.source.fingerprint()
        for processes in (1, 2, 3):
            for step in range(6):
                shares = [batches(remote, 12, rank, processes)[step] for rank in range(processes)]
                assert torch.equal(
                    torch.cat([share.views["global"] for share in shares]), expected[step].views["global"]
                )
                assert torch.equal(torch.cat([share.samples for share in shares]), expected[step].samples)


def test_a_broken_image_is_replaced_by_one_of_its_shard(tmp_path):
    write_shards(tmp_path / "tars", [5, 5])
    write_tar(
        tmp_path / "tars" / "s-001.tar", {f"{number}.png": picture(number) for number in range(3)} | {"x.png": b"no"}
    )
    indexed(tmp_path / "tars", tmp_path / "index", "none")
    found = open_source(Data(source="webdataset", path=str(tmp_path / "index"), window_shards=WINDOW), Shards())
    assert isinstance(found, ShardSource)
    broken: list[tuple[int, str]] = []
    instead, _, _ = batches(found, 2).read(8, 0, broken)
    assert 5 <= instead < 8
    assert broken[0][1].startswith("s-001.tar/x.png: ")


def test_where_all_of_a_shard_is_broken_one_of_another_is_taken(tmp_path):
    write_shards(tmp_path / "tars", [5])
    write_tar(tmp_path / "tars" / "s-001.tar", {"x.png": b"no"})
    indexed(tmp_path / "tars", tmp_path / "index", "none")
    found = open_source(Data(source="webdataset", path=str(tmp_path / "index"), window_shards=WINDOW), Shards())
    broken: list[tuple[int, str]] = []
    instead, _, _ = batches(found, 2).read(5, 0, broken)
    assert instead < 5
    assert {sample for sample, _ in broken} == {5}


def test_evaluation_leaves_images_of_shards_out_that_the_run_found_broken(tmp_path):
    write_shards(tmp_path / "tars", [2])
    write_tar(tmp_path / "tars" / "s-001.tar", {"a.png": picture(0), "x.png": b"no", "z.png": picture(1)})
    indexed(tmp_path / "tars", tmp_path / "index", "none")
    recipe = Recipe(data=Data(source="webdataset", path=str(tmp_path / "index"), window_shards=WINDOW))
    found = open_source(recipe.data, Shards())
    BrokenImages(tmp_path, len(found), 1.0).note([(3, "s-001.tar/x.png: no image")], write=True)
    kept = without(found, broken_files(tmp_path, recipe))
    assert [image_name(kept, sample) for sample in (2, 3)] == ["s-001.tar/a.png", "s-001.tar/z.png"]
    assert len(kept) == 4


@pytest.mark.parametrize("limit", [6, 10])
def test_loader_workers_fetch_each_shard_once_and_never_exceed_the_bound(shards, limit):
    size = max(path.stat().st_size for path in shards.iterdir())
    with serving(shards) as server:
        remote = opened(shards, server, gigabytes=limit * size / 1e9)
        server.requests.clear()
        most, ended = [0], threading.Event()
        cache = remote.shards.cache

        def watch() -> None:
            while not ended.wait(0.002):
                most[0] = max(most[0], cache.used_bytes())

        watcher = threading.Thread(target=watch)
        watcher.start()
        made = list(load_steps(batches(remote), range(5), workers=2, pin_memory=False))
        ended.set()
        watcher.join()
        samples = torch.cat([batch.samples for batch in made])
        assert torch.equal(samples.sort().values, torch.arange(50))
        assert 0 < most[0] <= limit * size
        assert len(server.requests) == 10
        # Where not all have room, those of the next epoch are fetched ahead at the end of this one.
        assert sum(server.requests.values()) <= (10 if limit == 10 else 10 + limit)


def room(folder: Path, layouts: str, limit: int = 3) -> ShardCache:
    """A cache for ``limit`` shards of 4096 bytes, with those of one letter each fetched in their order."""
    cache = ShardCache(folder, limit * 4096)
    for number, layout in enumerate(layouts):
        with cache.fetching(layout, 4096, ahead=False) as fetch:
            assert not isinstance(fetch, Refused)
            fetch.fill([layout.encode() * 4096])
        os.utime(folder / f"{layout}.tar", (number, number))
    return cache


def here(cache: ShardCache) -> str:
    return "".join(sorted(path.stem for path in cache.folder.glob("*.tar")))


def fetch(cache: ShardCache, layout: str, *, ahead: bool) -> Refused | None:
    with cache.fetching(layout, 4096, ahead=ahead) as begun:
        if isinstance(begun, Refused):
            return begun
        begun.fill([bytes(4096)])
    return None


def test_the_longest_unread_shard_goes_first_and_one_that_is_read_never(tmp_path):
    cache = room(tmp_path, "abc")
    with cache.reading("a") as descriptor:
        assert descriptor is not None
        fetch(cache, "d", ahead=False)
        assert here(cache) == "acd"
        with cache.reading("c"), cache.reading("d"):
            assert fetch(cache, "e", ahead=False) == Refused(is_being_fetched=False)
        assert os.pread(descriptor, 3, 0) == b"aaa"
    assert cache.used_bytes() == 3 * 4096


def test_fetching_ahead_leaves_what_anybody_wants_and_a_reader_takes_what_is_wanted_last(tmp_path):
    mine, other = room(tmp_path, "abc"), ShardCache(tmp_path, 3 * 4096)
    other.want(["b", "c", "a"])
    assert fetch(mine, "d", ahead=True) == Refused(is_being_fetched=False)
    assert here(mine) == "abc"
    fetch(mine, "d", ahead=False)
    assert here(mine) == "bcd"
    fetch(mine, "e", ahead=True)
    assert here(mine) == "bce"


def wait_inside(folder: Path, message: object) -> None:
    cache = ShardCache(folder, 3 * 4096)
    cache.want(["a"])
    with cache.fetching("d", 4096, ahead=False):
        message.set()  # type: ignore[attr-defined]
        time.sleep(600)


def test_what_a_killed_process_has_left_takes_no_room_and_keeps_nothing(tmp_path):
    cache = room(tmp_path, "ab")
    context = multiprocessing.get_context("fork")
    message = context.Event()
    process = context.Process(target=wait_inside, args=(tmp_path, message))
    process.start()
    assert message.wait(30)
    assert cache.used_bytes() == 3 * 4096  # of its full size from the beginning
    assert fetch(cache, "d", ahead=False) == Refused(is_being_fetched=True)
    assert fetch(cache, "e", ahead=True) is None  # b goes, which nobody wants
    assert here(cache) == "ae"
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert fetch(cache, "d", ahead=True) is None
    assert here(cache) == "ade"
    assert not list(tmp_path.glob("*.part"))


def test_a_cache_that_cannot_hold_a_window_or_be_written_is_refused(shards):
    with serving(shards) as server:
        opened(shards, server)
        small = opened(shards, server, gigabytes=1e-6)
        with pytest.raises(UserError, match=r"machine\.shards\.cache_gigabytes: 1e-06 does not hold a window of 3"):
            batches(small)
        (shards.parent / "cache").rename(shards.parent / "away")
        (shards.parent / "cache").write_text("a file")
        with pytest.raises(UserError, match=r"machine\.shards\.cache_folder: .*cannot be written"):
            opened(shards, server)


def test_a_full_disk_is_one_line(shards, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with serving(shards) as server:
        remote = opened(shards, server)
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(UserError, match="the disk is full; make room"):
            batches(remote)[0]


@pytest.fixture
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(patience, "_LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(remote, "SILENT_SECONDS", 0.3)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_fails_for_a_while_is_waited_for_and_said(shards, impatient, caplog, monkeypatch, ranges):
    monkeypatch.setattr(log, "propagate", True)
    monkeypatch.setattr(patience.Patience, "_last_line", -1000.0)
    expected = batches(opened(shards))[0].views["global"]
    with serving(shards, ranges=ranges) as server:
        found = opened(shards, server)
        server.failures[:] = ["503", "cut", "stall", "cut", "503"]
        assert torch.equal(batches(found)[0].views["global"], expected)
        assert not server.failures
    assert "waiting for the server" in caplog.text


def test_a_server_that_stays_away_ends_the_run_after_the_stated_time(shards, impatient):
    with serving(shards) as server:
        found = opened(shards, server, wait_seconds=1)
        server.is_down = True
        began = time.monotonic()
        with pytest.raises(
            UserError, match=r"nothing came from the server for \d s \(machine\.shards\.wait_seconds=1\)"
        ):
            batches(found)[0]
        assert time.monotonic() - began >= 1
        with pytest.raises(UserError, match=r"nothing came .*answers 503"):
            opened(shards, server, wait_seconds=1)
        server.is_down = False
        (shards / "s-003.tar").unlink()
        with pytest.raises(UserError, match=r"s-003\.tar: .*404.*is it still there"):
            opened(shards, server)


def test_a_flipped_byte_on_a_server_is_refused_and_one_in_the_cache_fetched_again(shards):
    with serving(shards) as server:
        found = opened(shards, server)
        list(load_steps(batches(found, 50), range(1), workers=0, pin_memory=False))
        sample = int(found.shard_starts[2]) + 1
        copy = shards.parent / "cache" / f"{found.index.shards[2].layout}.tar"
        flip(copy, int(found.index.offsets[sample]) + 99)
        server.requests.clear()
        assert found.content(sample) == picture(sample)
        assert sum(server.requests.values()) == 1
        flip(copy, int(found.index.offsets[sample]) + 99)
        flip(shards / "s-002.tar", int(found.index.offsets[sample]) + 99)
        with pytest.raises(UserError, match=rf"s-002\.tar: {sample:06}\.png is not what was indexed"):
            found.read(sample)


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_single_images_are_asked_for_by_range_and_a_shard_that_is_read_on_is_fetched(shards, monkeypatch):
    monkeypatch.setattr(fetched, "_IN_A_ROW", 3)
    with serving(shards) as server:
        found = opened(shards, server)
        server.requests.clear()
        for sample in (3, 20, 40):
            assert found.content(sample) == picture(sample)
        assert not list((shards.parent / "cache").glob("*.tar"))
        for sample in range(50):
            assert found.content(sample) == picture(sample)
        assert server.requests["s-009.tar"] <= 2


def test_without_fsspec_a_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(UserError, match=r"pip install 'simclr_dist\[shards\]'"):
        remote.RemoteStore("http://127.0.0.1:1/x", 1)


def test_shards_on_s3_are_read_as_those_on_a_disk(shards, monkeypatch):
    pytest.importorskip("s3fs")
    threaded = pytest.importorskip("moto.server")
    server = threaded.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        address = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
        for key, value in {
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_ENDPOINT_URL_S3": address,
        }.items():
            monkeypatch.setenv(key, value)
        import s3fs

        files = s3fs.S3FileSystem(endpoint_url=address, skip_instance_cache=True)
        files.mkdir("set")
        files.put(str(shards), "set/tars", recursive=True)
        index = indexed("s3://set/tars", shards.parent / "s3")
        local = opened(shards)
        assert index.fingerprint == local.fingerprint()
        keys = Shards(cache_folder=str(shards.parent / "cache"))
        found = open_source(Data(source="webdataset", path=str(shards.parent / "s3"), window_shards=WINDOW), keys)
        assert isinstance(found, ShardSource)
        assert torch.equal(batches(found)[2].views["global"], batches(local)[2].views["global"])
        files.pipe("set/tars/s-000.tar", (shards / "s-000.tar").read_bytes()[:-512])
        with pytest.raises(UserError, match=r"s-000\.tar: has"):
            open_source(Data(source="webdataset", path=str(shards.parent / "s3"), window_shards=WINDOW), keys)
    finally:
        server.stop()
