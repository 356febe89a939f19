"""Training with labels: the steps of LARS, half precision, stops and kills, and features that stay on the disk."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from simclr_dist.config.recipe import Data
from simclr_dist.data.sources.base import Subset
from simclr_dist.errors import UserError
from simclr_dist.evaluation import frozen, knn
from simclr_dist.evaluation.feature_blocks import mapped_blocks
from simclr_dist.evaluation.image_batches import cropped_and_flipped, features_as_they_are
from simclr_dist.evaluation.protocol import FINE_TUNING, LINEAR
from simclr_dist.evaluation.saved_training import SavedTraining, Unfinished
from simclr_dist.evaluation.supervised import Classifier, own_part, steps_of, train_classifier
from simclr_dist.models.batch_norm import GroupedBatchNorm
from simclr_dist.optim.schedule import Schedule
from tests.support.evaluation import blobs, small_context
from tests.support.processes import Running, assert_bit_equal, run_distributed, tiny_config
from tests.support.timed_digits import open_source as timed_digits

CPU = torch.device("cpu")


def trained(body, **chosen):
    """A classifier of blobs, its order and its features."""
    features, labels = blobs()
    protocol = LINEAR.with_choices(epochs=2, batch_images=50, base_learning_rate=1.0, **chosen)
    order = steps_of(protocol, len(features), seed=0)
    classifier = Classifier(body, 8, 6)
    train_classifier(classifier, protocol, order, features_as_they_are(features, labels, order), CPU)
    return classifier, order, torch.from_numpy(features), torch.from_numpy(labels)


# --- optimizer and precision


def test_lars_of_the_probe_is_its_formula_with_momentum_090_and_no_decay():
    classifier, order, features, labels = trained(nn.Identity(), optimizer="lars")
    plain = Classifier(nn.Identity(), 8, 6)
    schedule = Schedule(peak=50 / 256, warmup_steps=0, total_steps=12)
    buffers = {name: torch.zeros_like(value) for name, value in plain.named_parameters()}
    for step in range(12):
        rows = order.samples(step)
        plain.zero_grad()
        F.cross_entropy(plain(features[rows]), labels[rows]).backward()
        with torch.no_grad():
            for name, value in plain.named_parameters():
                trust = 0.001 * value.norm() / value.grad.norm() if name == "linear.weight" else 1.0
                buffers[name] = 0.9 * buffers[name] + schedule(step) * trust * value.grad
                value -= buffers[name]
    torch.testing.assert_close(classifier.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-7)


class _Seen(nn.Linear):
    dtypes: ClassVar[set[torch.dtype]] = set()  # the copy in the classifier shares it

    def forward(self, x):
        y = super().forward(x)
        self.dtypes.add(y.dtype)
        return y


def test_in_bfloat16_kernels_are_half_and_weights_float32_and_it_repeats_to_the_bit():
    torch.manual_seed(0)
    body = _Seen(8, 8)
    one, two = (trained(body, precision="bfloat16")[0] for _ in range(2))
    assert body.dtypes == {torch.bfloat16}
    assert_bit_equal(dict(one.state_dict()), dict(two.state_dict()))
    assert {value.dtype for value in one.state_dict().values()} == {torch.float32}
    assert not torch.equal(one.linear.weight, trained(body)[0].linear.weight)


def test_optimizer_and_precision_are_told_and_make_another_result(tmp_path):
    context = small_context(tmp_path)
    results = [
        frozen.probe(context, epochs=1, optimizer=optimizer, precision=precision)
        for optimizer, precision in ((None, None), ("lars", None), (None, "bfloat16"))
    ]
    assert [(r.protocol["optimizer"], r.protocol["precision"]) for r in results] == [
        ("sgd", "float32"), ("lars", "float32"), ("sgd", "bfloat16"),
    ]  # fmt: skip
    assert len({result.file_name() for result in results}) == 3


# --- batches that the processes cannot share equally


def trained_on_all_at_once(images):
    """The weights and statistics of a training whose batch is all images there are, and this process's rows of it."""
    features, labels = (array[:images] for array in blobs())
    order = steps_of(FINE_TUNING.with_choices(epochs=4), images, seed=0)
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(8, 16), GroupedBatchNorm(16), nn.ReLU())
    classifier = Classifier(body, 16, 6)
    protocol = FINE_TUNING.with_choices(epochs=4, base_learning_rate=1.0)
    train_classifier(classifier, protocol, order, features_as_they_are(features, labels, order), CPU)
    return dict(classifier.state_dict()), len(order.samples(0, *own_part(order)))


def both_trained_on_all_at_once():
    return [trained_on_all_at_once(images) for images in (6, 7)]


def test_all_images_as_one_batch_train_alike_on_4_processes_that_can_share_half_of_it_or_nothing():
    alone = both_trained_on_all_at_once()
    for rank_found in run_distributed(4, both_trained_on_all_at_once):
        assert [rows for _, rows in rank_found] == [3, 7]
        for (expected, _), (found, _) in zip(alone, rank_found, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def refused_batch():
    with pytest.raises(UserError, match="--batch: 9 images cannot be shared equally by 2 processes"):
        steps_of(FINE_TUNING.with_choices(batch_images=9), 10, seed=0)


def test_a_batch_of_some_of_the_images_that_processes_cannot_share_is_refused():
    run_distributed(2, refused_batch)


# --- stopped and started again


def test_a_classifiers_crops_are_of_the_image_whose_label_they_carry_where_pretraining_shows_a_frame_near_it(tmp_path):
    keys = ("recipe.views.global.frame=near", "recipe.views.global.frame_distance=5")
    source, order = timed_digits(Data(), "train"), steps_of(FINE_TUNING.with_choices(batch_images=16), 64, seed=0)
    assert source.labels is not None
    crops, labels = [], []
    for folder, chosen in (("near", keys), ("own", ())):
        (tmp_path / folder).mkdir()
        recipe = tiny_config(tmp_path / folder, *chosen).recipe
        batches = cropped_and_flipped(Subset(source, np.arange(64)), recipe, order)
        views, given = next(iter(batches([0])))
        crops.append(views)
        labels.append(given)
    assert torch.equal(*crops)
    assert torch.equal(*labels)


def trained_and_saved(folder):
    """The weights of a training that is saved after every step, and the steps that were done before."""
    features, labels = blobs()
    protocol = LINEAR.with_choices(epochs=2, batch_images=20, optimizer="lars")
    order = steps_of(protocol, len(features), seed=0)
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(8, 64), GroupedBatchNorm(64), nn.ReLU(), nn.Linear(64, 32), GroupedBatchNorm(32))
    classifier, saved = Classifier(body, 32, 6), SavedTraining(folder, every_seconds=0)
    before = sorted(path.name for path in folder.glob("step_*.pt"))
    train_classifier(classifier, protocol, order, features_as_they_are(features, labels, order), CPU, saved=saved)
    return before, dict(classifier.state_dict())


def test_a_training_killed_on_4_processes_goes_on_and_ends_bit_equal_to_an_undisturbed_one(tmp_path):
    whole = run_distributed(4, trained_and_saved, tmp_path / "whole")[0]
    running = Running(4, trained_and_saved, tmp_path / "killed")
    while not list((tmp_path / "killed").glob("step_*[5-9].pt")):
        assert all(process.is_alive() for process in running.processes), "it ended before it could be killed"
        time.sleep(0.002)
    running.kill()
    again = run_distributed(4, trained_and_saved, tmp_path / "killed")[0]
    assert whole[0] == []
    assert "step_000000005.pt" <= again[0][-1] < "step_000000030.pt"
    assert_bit_equal(again[1], whole[1])


def test_a_stopped_command_tells_how_to_go_on_repeats_nothing_finished_and_ends_with_the_same_file(
    run_dir, monkeypatch, run
):
    trained_steps, after_step = [], SavedTraining.after_step

    def note_and_stop(self, state_of, step, total):
        trained_steps.append((total, step))
        if trained_steps[-1] == (10, 3) and trained_steps.count((10, 3)) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        after_step(self, state_of, step, total)

    monkeypatch.setattr(SavedTraining, "after_step", note_and_stop)

    def command():
        return run("evaluate", run_dir, "baseline", "--shares", "1,2", "--batch", "11", "--epochs", "5")[:2]

    status, out = command()
    assert status == 128 + signal.SIGTERM
    assert out.count("\n") == 1
    assert "stopped by SIGTERM after step 3 of 10" in out
    assert "start the same command again" in out
    status, out = command()
    assert status == 0
    assert trained_steps == [(5, step) for step in range(1, 6)] + [(10, step) for step in range(1, 11)]
    path = Path(out.splitlines()[-1])
    assert not (run_dir / "unfinished").exists()
    found = path.read_bytes()
    assert json.loads(found)["method"] == "baseline"
    path.unlink()
    assert command()[0] == 0
    assert len(trained_steps) == 30
    assert path.read_bytes() == found


def test_each_thing_that_determines_a_training_gives_it_another_name(tmp_path):
    context = small_context(tmp_path)
    context.unfinished = Unfinished(tmp_path)
    classifier, some = Classifier(context.pretrained.encoder, 2, 10), np.arange(20)
    order = steps_of(FINE_TUNING, 20, seed=0)

    def name(method="finetune", classifier=classifier, protocol=FINE_TUNING, order=order, indices=some):
        return context.saved_training(method, classifier, protocol, order, indices).folder.name

    names = [
        name(),
        name(method="baseline"),
        name(classifier=Classifier(context.pretrained.encoder, 2, 10, seed=1)),
        *(name(protocol=replace(FINE_TUNING, **{key: value})) for key, value in (
            ("epochs", 1), ("batch_images", 7), ("base_learning_rate", 1.0), ("optimizer", "lars"),
            ("precision", "bfloat16"),
        )),
        name(order=replace(order, seed=1)),
        name(indices=some + 1),
    ]  # fmt: skip
    context.train_labels = context.train_labels[::-1]
    names.append(name())
    context.encoder_sha256 = "another"
    names.append(name())
    context.test_labels = context.test_labels[::-1]
    names.append(name())
    context.test = Subset(context.test, np.arange(99))
    names.append(name())
    assert len(set(names)) == len(names)
    assert name() == names[-1]


def test_accuracies_on_one_test_set_are_never_taken_for_those_on_another(tmp_path):
    context = small_context(tmp_path)
    context.unfinished = Unfinished(tmp_path)
    classifier = Classifier(context.pretrained.encoder, 2, 10)
    order = steps_of(FINE_TUNING, 20, seed=0)

    def saved():
        return context.saved_training("finetune", classifier, FINE_TUNING, order, np.arange(20))

    saved().finish((0.5, None, 0.5), 1)
    assert saved().accuracies == (0.5, None, 0.5)
    test, labels = context.test, context.test_labels
    context.test_labels = np.roll(labels, 1)  # another label each
    assert saved().accuracies is None
    context.test, context.test_labels = Subset(test, np.arange(99)), labels[:99]  # an image less
    assert saved().accuracies is None


def test_a_damaged_save_is_set_aside_for_the_one_before_and_without_one_the_training_begins_anew(tmp_path):
    module = nn.Linear(1, 1, bias=False)
    folder = tmp_path / "finetune_0"

    def after(step):
        with SavedTraining(folder, every_seconds=0) as saved:
            module.weight.data.fill_(step)
            saved.after_step({"model": module}, step, 9)

    def restored():
        return SavedTraining(folder).restore({"model": module}), float(module.weight.detach())

    after(3), after(4)
    (folder / "step_000000004.pt").write_bytes(b"half")
    assert restored() == (3, 3.0)
    (folder / "step_000000003.pt").write_bytes(b"half")
    assert restored()[0] == 0
    after(1)
    assert restored() == (1, 1.0)
    assert len(list(folder.glob("*.damaged"))) == 2
    SavedTraining(folder).finish((0.5, None, 0.25), 9)
    assert SavedTraining(folder).accuracies == (0.5, None, 0.25)


# --- features on the disk


def test_kept_features_stay_in_their_files_and_are_the_rows_of_one_array(tmp_path):
    whole = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    files = [tmp_path / f"{number}.npy" for number in range(3)]
    for file, part in zip(files, (whole[:4], whole[4:8], np.concatenate([whole[8:], whole[:2]])), strict=True):
        np.save(file, part)
    rows = mapped_blocks(files, 10)
    assert all(isinstance(block, np.memmap) for block in rows._blocks)
    assert (len(rows), rows.shape) == (10, whole.shape)
    for wanted in (slice(2, 9), slice(0, 0), np.array([9, 0, 4, 4]), np.array([], dtype=np.int64)):
        assert np.array_equal(rows[wanted], whole[wanted])
    assert np.array_equal(np.asarray(rows), whole)
    for wrong in (-1, 10):
        with pytest.raises(IndexError):
            rows[np.array([wrong])]


class _Bank:
    """400,000 rows of 64 numbers that are made when they are asked for: 102 MB that need never be in memory."""

    shape = (400_000, 64)

    def __init__(self):
        self.rows, self.most, self.memory = np.random.default_rng(0).normal(size=(20_000, 64)).astype("f4"), 0, []

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        chosen = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        self.most = max(self.most, len(chosen))
        self.memory.append(_own_memory())
        return self.rows[chosen % len(self.rows)]


def _own_memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def test_knn_and_the_probe_read_a_bank_in_pieces_and_never_hold_it(tmp_path):
    bank, (test, _) = _Bank(), blobs(20, dim=64)
    labels = np.arange(len(bank)) % 6
    knn.knn_scores(bank.rows, labels[:20_000], test)  # what is loaded at a first use
    scores = knn.knn_scores(bank, labels, test)
    order = steps_of(LINEAR, len(bank), seed=0)
    for inputs, _ in features_as_they_are(bank, labels, order)(range(20)):
        assert inputs.shape == (4096, 64)
    assert scores.shape == (20, 6)
    assert bank.most == knn._BANK_ROWS
    assert len(bank.memory) == 25 + 20
    assert max(bank.memory) - bank.memory[0] < 40e6
