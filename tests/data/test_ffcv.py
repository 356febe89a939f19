"""Source ``ffcv``: batches through ffcv's own loader are those of this project, and the process stays as it was."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simclr_dist.data.rendering.kernels.jpeg import jpeg_header
from simclr_dist.data.sources.beton import ffcv_library
from simclr_dist.data.sources.beton.check import seal_file
from simclr_dist.data.sources.beton.encoding import Encoding
from simclr_dist.data.sources.beton.ffcv_source import FfcvSource
from simclr_dist.data.sources.beton.format import read_table
from simclr_dist.data.sources.beton.sidecar import path_of
from simclr_dist.data.sources.beton.source import BetonSource
from simclr_dist.data.sources.beton.writer import write_beton
from simclr_dist.data.sources.files import FileSource
from simclr_dist.data.sources.folders import find_images

needs_ffcv = pytest.mark.skipif(find_spec("ffcv") is None, reason="ffcv is not installed: see ./script/setup_ffcv")
IMAGES, BROKEN, TURNED = 24, 5, 8


def picture(number: int) -> Image.Image:
    height, width = (20 + number, 40) if number % 2 else (80 + number, 90)
    waves = np.sin(np.linspace(0, 3, height)[:, None] + np.linspace(0, 2 + number, width))
    pixels = np.stack([128 + 90 * waves, 128 - 60 * waves, 255 * (waves > 0)], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


def write_mixed(folder: Path) -> Path:
    """A sealed .beton of raw pixels and JPEGs of many sizes; one JPEG is turned by its EXIF, one is no whole JPEG."""
    (folder / "images").mkdir(parents=True)
    for number in range(IMAGES):
        exif = Image.Exif()
        exif[0x0112] = 6 if number == TURNED else 1
        picture(number).save(folder / "images" / f"{number:02}.jpg", quality=95, exif=exif)
    source = FileSource(
        folder / "images", find_images(folder / "images").names, [n % 3 for n in range(IMAGES)], [*"abc"]
    )
    path = folder / "mixed.beton"
    write_beton(source, path, Encoding(mode="auto", max_side=0))
    table = read_table(path)
    with path.open("r+b") as file:
        file.seek(int(table.pointers[2 * BROKEN]) + 700)
        file.write(bytes(400))
    path_of(path).unlink()
    seal_file(path)
    return path


# In a process of its own with a time limit: what ffcv does where it fails is to wait forever. Loaders are made as few
# times as can be, since each is compiled.
WITH_FFCV = """
import json, os, sys, threading, time
from dataclasses import replace
import numba, numpy as np, torch
from simclr_dist.config.recipe import Data, Recipe
from simclr_dist.config.views import ViewGroup
from simclr_dist.data.loading.batches import ViewBatches
from simclr_dist.data.loading.ffcv_steps import FfcvViews, load_views
from simclr_dist.data.loading.order import SampleOrder
from tests.support.images import open_source
from simclr_dist.errors import UserError

def equal(a, b):
    return [
        torch.equal(a.samples, b.samples), torch.equal(a.labels, b.labels), a.broken == b.broken, a.epoch == b.epoch,
        *(torch.equal(a.views[name], b.views[name]) for name in b.views),
        *(torch.equal(x, y) for name in b.choices for x, y in zip(a.choices[name], b.choices[name])),
    ]

def complaint(make):
    try:
        make()
    except UserError as error:
        return str(error)

def megabytes():
    with open("/proc/self/smaps_rollup") as file:
        # Without files' pages: of those that others map too a share is counted, which grows when they end.
        return next(int(line.split()[1]) for line in file if line.startswith("Pss_Anon:")) / 1024

found, path = {}, sys.argv[1]
torch.set_num_threads(1)
settings = lambda: [torch.get_num_threads(), numba.get_num_threads(), numba.uint8[::1].mutable]
# Not asked for: whoever asks numba chooses its threads for the life of the process, TBB's where they are there.
found["settings"] = [1, numba.config.NUMBA_NUM_THREADS, True]
views = {
    "large": ViewGroup(count=2, solarize_probability=0.3),
    "small": ViewGroup(count=1, size=16, color_form="affine", interpolation="bicubic"),
}
recipe = Recipe(global_batch_images=8, seed=3, data=Data(source="ffcv", path=path, image_size=32), views=views)
source = open_source(recipe.data)
order = SampleOrder(seed=3, images=len(source), global_batch_images=8)
reference = ViewBatches(source, recipe, order)
made = [reference[step] for step in range(9)]
loader = FfcvViews(reference, 2)
whole = list(loader.load(range(9)))
found["whole"] = [equal(*pair) for pair in zip(whole, made)]
found["settings_after"] = settings()
found["from_the_middle"] = [equal(*pair) for pair in zip(loader.load(range(4, 9)), made[4:])]
found["shares"] = []
for rank in range(2):
    loader.batches = replace(reference, rank=rank, processes=2)
    found["shares"] += [equal(batch, loader.batches[2 + n]) for n, batch in enumerate(loader.load(range(2, 5)))]
loader.batches = reference
beton = ViewBatches(open_source(replace(recipe.data, source="beton")), recipe, order)
is_raw = source.table.modes == 1
found["raw_as_beton"] = [
    torch.equal(a.views[name][row], b.views[name][row])
    for a, b in ((whole[step], beton[step]) for step in range(3))
    for row, sample in enumerate(a.samples.tolist()) if is_raw[sample]
    for name in views
]
found["broken"] = sorted({sample for batch in whole[:3] for sample, _ in batch.broken})
class Slow(SampleOrder):
    def samples(self, *_):
        time.sleep(1)
        return super().samples(*_)
loader.batches = replace(reference, order=Slow(seed=3, images=24, global_batch_images=8))
found["stopped"] = list(loader.load(range(9), is_stopped=lambda: True)) == []
loader.batches = reference

threads = threading.active_count()
for step, _ in enumerate(loader.load(range(600))):
    if step == 60:
        early = megabytes()
found["growth"], found["steps"] = megabytes() - early, step + 1
for _ in range(20):
    abandoned = loader.load(range(100))
    next(abandoned)
    del abandoned
found["threads"] = threading.active_count() - threads

crops = replace(reference, colors=False)
dispatched = load_views(crops, range(2), workers=0, pin_memory=False)
found["crops"] = [equal(batch, crops[step]) for step, batch in enumerate(dispatched)]

content = open(path, "rb").read()
at = int(source.table.pointers[7]) + 30
with open(path, "r+b") as file:
    file.seek(at)
    file.write(bytes([content[at] ^ 1]))
found["damaged"] = complaint(lambda: list(loader.load(range(9))))
os.truncate(path, len(content) - 100)
found["cut"] = complaint(lambda: list(loader.load(range(9))))
with open(path, "wb") as file:
    file.write(content)
class Failing(SampleOrder):
    def samples(self, *_):
        raise MemoryError("of the thread")
loader.batches = replace(reference, order=Failing(seed=3, images=24, global_batch_images=8))
try:
    next(loader.load(range(9)))
except MemoryError as error:
    found["raised"] = str(error)
loader.batches = reference
left_open = loader.load(range(100))
next(left_open)
print(json.dumps(found), flush=True)
"""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    return write_mixed(tmp_path_factory.mktemp("ffcv"))


@pytest.fixture(scope="module")
def found(mixed) -> dict[str, Any]:
    """What the program above found, once it has ended by itself with a loader open."""
    done = subprocess.run(
        [sys.executable, "-c", WITH_FFCV, mixed], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@needs_ffcv
@pytest.mark.parametrize("part", ["whole", "from_the_middle", "shares", "crops"])
def test_ffcvs_loader_makes_the_batches_of_the_project_to_the_bit(found, part):
    assert len(found[part]) == {"whole": 9, "from_the_middle": 5, "shares": 6, "crops": 2}[part]
    assert all(all(batch) for batch in found[part])


@needs_ffcv
def test_raw_images_are_those_of_source_beton_to_the_bit(found):
    assert len(found["raw_as_beton"]) == IMAGES // 2 * 2
    assert all(found["raw_as_beton"])


@needs_ffcv
def test_a_jpeg_that_ffcv_refuses_is_a_broken_image(found):
    assert found["broken"] == [2 * BROKEN]


@needs_ffcv
def test_threads_and_types_of_the_process_are_as_before_ffcv(found):
    assert found["settings_after"] == found["settings"]


@needs_ffcv
def test_200_epochs_hold_their_memory_and_20_abandoned_ones_leave_no_thread(found):
    assert found["steps"] == 600
    assert found["growth"] < 12  # MB; the views of the 540 steps between are 30
    assert found["threads"] == 0


@needs_ffcv
def test_what_fails_in_ffcvs_thread_is_raised_at_the_next_batch_and_a_stop_is_heard(found):
    assert "image 7 was damaged" in found["damaged"]
    assert "another file has taken its place" in found["cut"]
    assert found["raised"] == "of the thread"
    assert found["stopped"]


@needs_ffcv
def test_an_image_read_alone_has_ffcvs_pixels_and_a_name_of_its_own(mixed):
    ours, theirs = BetonSource(mixed), FfcvSource(mixed)
    apart = [np.abs(ours.read(n).numpy().astype(int) - theirs.read(n).numpy()).max() for n in (0, 1, TURNED)]
    assert apart[1] == 0  # raw
    assert 0 < max(apart) <= 6
    assert theirs.read(TURNED).shape == ours.read(TURNED).shape
    assert ours.fingerprint() != theirs.fingerprint()


def test_without_ffcv_one_line_says_how_to_get_it(run, mixed, monkeypatch):
    monkeypatch.setattr(ffcv_library, "find_spec", lambda name: None)
    ffcv_library._library.cache_clear()
    status, _, err = run("data", "bench", "digits_demo", "recipe.data.source=ffcv", f"recipe.data.path={mixed}")
    assert status == 2
    assert "script/setup_ffcv" in err
    assert "recipe.data.source=beton" in err
    assert len(err.splitlines()) == 1


def test_a_jpegs_header_says_its_size_and_whether_it_may_be_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    for options, may_be_turned in (({"exif": exif}, True), ({"progressive": True}, False)):
        picture(3).save(tmp_path / "a.jpg", **options)
        data = np.frombuffer((tmp_path / "a.jpg").read_bytes(), np.uint8)
        assert jpeg_header(data) == (23, 40, may_be_turned)
        for end in (0, 3, 20, 160):
            assert jpeg_header(data[:end])[2] in (may_be_turned, False)
