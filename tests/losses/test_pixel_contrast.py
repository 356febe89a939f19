"""Pixel contrast against Google's release, the paper's formula in plain loops, and one matrix; on 1, 2, 4 processes."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.losses import small_maps, tiles
from simclr_dist.losses.pixel_contrast import pixel_contrast
from simclr_dist.losses.plain_pixels import plain_pixel_contrast
from tests.support.golden import golden, tensor
from tests.support.processes import relative_error, run_distributed

RELEASE, FORMULA = golden("pixel_label_google"), golden("pixel_label_formula")
KINDS = [(loss, form) for loss in ("within", "cross", "batch") for form in ("paper", "release")]


def labels_of(record: Any) -> Tensor:
    """Of the release's records, which ignore -1."""
    labels = torch.tensor(record)
    return labels.where(labels >= 0, 255)


@pytest.mark.parametrize("record", RELEASE["within"])
def test_within_image_loss_and_gradient_are_those_of_the_release_of_the_image_and_of_its_copy_added(record):
    features, labels = tensor(record["features"]), labels_of(record["labels"])
    nothing = torch.full_like(labels, 255)
    for view in (0, 1):
        z = torch.stack((features, features.flip(1)) if view == 0 else (features.flip(1), features), dim=1)
        both = torch.stack((labels, nothing) if view == 0 else (nothing, labels), dim=1)
        z.requires_grad_()
        loss = pixel_contrast(z, both, record["temperature"], loss="within", form="release")
        loss.backward()
        assert float(loss.detach()) == pytest.approx(record["loss"], rel=1e-5)
        assert relative_error(z.grad[:, view], tensor(record["gradient"])) < 1e-5
        assert not z.grad[:, 1 - view].any()


@pytest.mark.parametrize("record", RELEASE["cross"])
def test_cross_image_loss_and_gradient_are_those_of_the_release(record):
    images, partners_copies = (tensor(record[f"features_{number}"]) for number in (1, 2))
    count, nothing = len(images), torch.full_like(labels_of(record["labels_1"]), 255)
    # The images, then their partners, of which the record has the copies alone: as images they count 0.
    z = torch.stack((torch.cat((images, images)), torch.cat((images, partners_copies))), dim=1).requires_grad_()
    labels = torch.stack(
        (torch.cat((labels_of(record["labels_1"]), nothing)), torch.cat((nothing, labels_of(record["labels_2"])))), 1
    )
    partners = torch.arange(2 * count).roll(count)
    loss = 2 * pixel_contrast(z, labels, record["temperature"], loss="cross", form="release", partners=partners)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(record["loss"], rel=1e-5)
    assert relative_error(z.grad[:count, 0], tensor(record["gradient_1"])) < 1e-5
    assert relative_error(z.grad[count:, 1], tensor(record["gradient_2"])) < 1e-5


@pytest.mark.parametrize("loss", ["within", "cross"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_loss_and_gradient_of_the_paper_s_form_are_those_of_its_formula_and_ignored_pixels_count_nowhere(loss, number):
    record = FORMULA[loss][number]
    names = ["I", "I_hat", "J_hat"][: 2 if loss == "within" else 3]
    sizes, dim = [len(record[f"labels_{name}"]) for name in names], len(record["features_I"][0])
    z, labels = unit(2, 2, max(sizes) + 1, dim), torch.full((2, 2, max(sizes) + 1), 255)
    places = [(0, 0), (0, 1), (1, 1)][: len(names)]
    for (image, view), name, size in zip(places, names, sizes, strict=True):
        z[image, view, :size] = tensor(record[f"features_{name}"])
        labels[image, view, :size] = torch.tensor(record[f"labels_{name}"])
    z.requires_grad_()
    partners = torch.tensor([1, 0])
    found = 2 * pixel_contrast(z, labels, record["temperature"], loss=loss, form="paper", partners=partners)
    found.backward()
    assert float(found.detach()) == pytest.approx(record["loss"], rel=1e-12)
    expected = torch.zeros_like(z)
    for (image, view), name, size in zip(places, names, sizes, strict=True):
        expected[image, view, :size] = tensor(record[f"gradient_{name}"])
    assert relative_error(z.grad, expected) < 1e-12


def unit(*shape: int, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return F.normalize(1 + spread * torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1)


def labels_like(images: int, pixels: int) -> Tensor:
    """Five classes, some pixels ignored, one image whose pixels all are."""
    labels = torch.randint(6, (images, 2, pixels), generator=torch.Generator().manual_seed(1))
    labels = labels.where(labels < 5, 255)
    labels[1] = 255
    return labels


PARTNERS = torch.tensor([2, 0, 3, 1])


def loss_and_gradient(z: Tensor, loss: str, form: str, temperature: float = 0.1) -> tuple[Tensor, Tensor]:
    """Of this process's images; the gradient as DDP's mean will have it."""
    own = z.chunk(process_count())[process_rank()].clone().requires_grad_()
    labels = labels_like(len(z), z.shape[2]).chunk(process_count())[process_rank()]
    found = pixel_contrast(own, labels, temperature, loss=loss, form=form, partners=PARTNERS)
    found.backward()
    assert own.grad is not None
    return found.detach(), own.grad / process_count()


@pytest.mark.parametrize(("loss", "form"), KINDS)
@pytest.mark.parametrize(("temperature", "spread"), [(0.07, 1.0), (0.01, 1.0), (0.07, 1e-2)])
def test_float32_in_many_tiles_is_the_one_matrix_even_when_embeddings_collapse(
    monkeypatch, loss, form, temperature, spread
):
    monkeypatch.setattr(tiles, "_CPU_TILE", 16)
    monkeypatch.setattr(small_maps, "MOST_PIXELS", {})
    exact = unit(4, 2, 37, 8, spread=spread).float().double().requires_grad_()
    expected = plain_pixel_contrast(exact, labels_like(4, 37), temperature, loss, form, PARTNERS)
    expected.backward()
    for dtype, bound in ((torch.float32, 2e-4), (torch.float64, 1e-9)):
        found, gradient = loss_and_gradient(exact.detach().to(dtype), loss, form, temperature)
        assert float(found) == pytest.approx(float(expected.detach()), rel=bound / 10)
        assert relative_error(gradient, exact.grad) < bound


@pytest.mark.parametrize("loss", ["within", "cross"])
@pytest.mark.parametrize(("temperature", "spread"), [(0.07, 1.0), (0.01, 1.0), (0.07, 1e-2)])
def test_small_maps_a_part_of_the_images_at_once_are_the_one_matrix(monkeypatch, loss, temperature, spread):
    monkeypatch.setattr(small_maps, "_PAIRS", 3 * 37**2 * (1 if loss == "within" else 2))
    exact = unit(4, 2, 37, 8, spread=spread).float().double().requires_grad_()
    expected = plain_pixel_contrast(exact, labels_like(4, 37), temperature, loss, "paper", PARTNERS)
    expected.backward()
    for dtype, bound in ((torch.float32, 1e-6), (torch.float64, 1e-11)):
        found, gradient = loss_and_gradient(exact.detach().to(dtype), loss, "paper", temperature)
        assert float(found) == pytest.approx(float(expected.detach()), rel=bound)
        assert relative_error(gradient, exact.grad) < bound


def _of_all_kinds() -> list[tuple[Tensor, Tensor]]:
    found = [loss_and_gradient(unit(4, 2, 20, 8), loss, form) for loss, form in KINDS]
    most, small_maps.MOST_PIXELS = small_maps.MOST_PIXELS, {}
    found += [loss_and_gradient(unit(4, 2, 20, 8), loss, "paper") for loss in ("within", "cross")]
    small_maps.MOST_PIXELS = most
    return found


@pytest.mark.parametrize("processes", [2, 4])
def test_loss_and_gradient_are_those_of_one_process(processes):
    of_processes = run_distributed(processes, _of_all_kinds)
    for number, (loss, gradient) in enumerate(_of_all_kinds()):
        assert all(float(found[number][0]) == pytest.approx(float(loss), rel=1e-12) for found in of_processes)
        assert relative_error(torch.cat([found[number][1] for found in of_processes]), gradient) < 1e-12


def test_classes_above_255_are_of_one_image_alone():
    """Unlabelled images, whose pixels are classes of their own: their partner's pixels of the same number are not."""
    z, labels = unit(2, 2, 6, 4), (256 + torch.arange(6)).expand(2, 2, 6)
    kinds = {"within": None, "cross": torch.tensor([1, 0])}
    one, other = (pixel_contrast(z, labels, 0.1, loss=k, partners=p, slots=262) for k, p in kinds.items())
    assert torch.equal(one, other)
    similarities = z[:, 0] @ z[:, 1].transpose(1, 2) / 0.1
    assert float(one) == pytest.approx(float(-similarities.log_softmax(2).diagonal(dim1=1, dim2=2).mean()), rel=1e-12)


@pytest.mark.parametrize("most", [{}, small_maps.MOST_PIXELS], ids=["tiles", "small maps"])
@pytest.mark.parametrize("form", ["paper", "release"])
def test_an_image_that_is_its_own_partner_meets_no_other_image(monkeypatch, most, form):
    """Held against a formula in loops that knows of no partner at all."""
    monkeypatch.setattr(small_maps, "MOST_PIXELS", most)
    z, labels = unit(3, 2, 12, 8).requires_grad_(), torch.randint(3, (3, 2, 12))
    labels[0], labels[2] = 255, 255
    partners = torch.tensor([2, 1, 0])
    found = pixel_contrast(z, labels, 0.1, loss="cross", form=form, partners=partners)
    own, copy = z[1]
    losses = []
    for i in range(12):
        candidates, theirs = (copy, labels[1, 1]) if form == "paper" else (own, labels[1, 0])
        s, same = candidates @ own[i] / 0.1, theirs == labels[1, 0, i]
        if form == "paper":
            losses += [s.exp().sum().log() - s[same].mean()]
        else:
            losses += [(1 + (-s[same]).exp() * s[~same].exp().sum()).log().mean()]
    expected = torch.stack(losses).mean() / 3
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-10)
    plain = plain_pixel_contrast(z, labels, 0.1, "cross", form, partners)
    assert float(plain.detach()) == pytest.approx(float(expected.detach()), rel=1e-10)
    one, other = (torch.autograd.grad(each, z)[0] for each in (found, expected))
    assert relative_error(one, other) < 1e-9
    if form == "paper":
        within = pixel_contrast(z, labels, 0.1, loss="within", form=form)
        assert float(within.detach()) == pytest.approx(float(found.detach()), rel=1e-12)
