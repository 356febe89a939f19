"""The set of pasted cut-outs: its split, its masks, and that the source of folders with masks reads it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from simclr_dist.data.sources.base import IGNORED
from simclr_dist.data.sources.masked_files import MaskedFiles
from simclr_dist.data.sources.masked_folder import find_masked

SIDE = 48


@pytest.fixture
def pasted(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """benchmarks/pasted_cutouts.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import pasted_cutouts

    yield pasted_cutouts
    for name in ("pasted_cutouts", "pasted_parts"):
        del sys.modules[name]


def stamps(pasted: ModuleType, root: Path) -> Path:
    """Seven round stamps a class, red but for those of no class; two are of one animal, as their first word says."""
    rows, columns = np.mgrid[:40, :40] - 19.5
    for label, folders in enumerate(pasted.CLASS_FOLDERS.values()):
        for number, name in enumerate(("cow_left", "cow-right2", "owl", "pear", "rose", "tram", "well")):
            pixels = np.zeros((40, 40, 4), dtype=np.uint8)
            pixels[..., :3] = (200 if label else 0, number, label)
            pixels[..., 3] = 255 * (np.hypot(rows, columns) < 17)
            (root / folders[0]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folders[0] / f"{name}.png")
    return root


def test_no_cutout_nor_another_of_its_first_word_is_in_train_and_test(pasted, tmp_path):
    cutouts = pasted.read_all(stamps(pasted, tmp_path))
    for name in pasted.CLASS_FOLDERS:
        train, test = (
            {Path(path).stem.replace("-", "_").split("_")[0] for path in cutouts[split][name]}
            for split in ("train", "test")
        )
        assert train
        assert test
        assert not train & test
        assert len(cutouts["train"][name]) + len(cutouts["test"][name]) == 7


def test_few_cutouts_of_a_class_are_of_different_first_words_the_same_in_train_and_test_and_the_first_of_more(
    pasted, tmp_path
):
    folder = stamps(pasted, tmp_path)
    two, four = (pasted.read_all(folder, count) for count in (2, 4))
    for name in pasted.CLASS_FOLDERS:
        few = list(two["train"][name])
        assert len(few) == 2
        assert few == list(two["test"][name]) == list(four["train"][name])[:2]
        assert len({Path(path).stem.replace("-", "_").split("_")[0] for path in four["train"][name]}) == 4


def test_more_cutouts_of_a_class_than_it_has_first_words_are_refused(pasted, tmp_path):
    with pytest.raises(SystemExit, match="6 cut-outs for mammal, 7 asked for"):
        pasted.read_all(stamps(pasted, tmp_path), 7)


def test_no_place_of_a_photograph_is_in_train_and_test(pasted):
    photograph = np.arange(50 * 40 * 3, dtype=np.uint16).reshape(50, 40, 3)
    train, test = (set(pasted.part_of(photograph, split).ravel().tolist()) for split in ("train", "test"))
    assert not train & test
    assert len(train) + len(test) == photograph.size


def test_masks_lie_on_their_objects_and_the_source_reads_both(pasted, tmp_path):
    """Objects of a class are red, all else is without red, so a mask is the threshold of its image."""
    cutouts = pasted.read_all(stamps(pasted, tmp_path / "stamps"))
    blue = {"blue": np.full((80, 200, 3), (0, 0, 250), dtype=np.uint8)}
    counts = {"train": 6, "test": 2, "unlabelled": 2}
    written = [
        pasted.write_set(tmp_path / name, cutouts, blue, side=SIDE, counts=counts, seed=seed)
        for name, seed in (("set", 0), ("again", 0), ("other", 1))
    ]
    assert written[0] == written[1] != written[2]
    source = MaskedFiles(find_masked(tmp_path / "set", "pretrain"))
    assert len(source) == 8
    assert source.mask_classes == list(pasted.CLASS_FOLDERS)
    agree = counted = 0
    for sample in range(len(source)):
        image, mask = (tensor.numpy() for tensor in source.read_with_mask(sample))
        if source.name(sample).startswith("unlabelled"):
            assert (mask == IGNORED).all()
            continue
        counts_here = mask != IGNORED
        assert {0, IGNORED} < set(np.unique(mask).tolist())
        agree += ((image[0] > 70) == (mask > 0))[counts_here].sum()
        counted += counts_here.sum()
    # Blur and noise of the whole image move the threshold at some rims.
    assert agree > 0.97 * counted
    assert len(MaskedFiles(find_masked(tmp_path / "set", "test"))) == 2


def test_an_image_has_no_class_twice_and_some_images_have_things_of_no_class(pasted, monkeypatch):
    pasted_labels: list[int] = []
    monkeypatch.setattr(pasted, "paste", lambda canvas, mask, cutout, label, drawn: pasted_labels.append(label))
    cutouts, grounds = [[Image.new("RGBA", (4, 4))]] * 8, [np.zeros((90, 90, 3), dtype=np.uint8)]
    of_no_class = 0
    for number in range(40):
        pasted_labels.clear()
        pasted.compose(cutouts, grounds, SIDE, pasted.Drawn(0, "train", number))
        classes = [label for label in pasted_labels if label]
        assert 2 <= len(classes) <= 4
        assert len(set(classes)) == len(classes)
        of_no_class += len(pasted_labels) > len(classes)
    assert 0 < of_no_class < 40
