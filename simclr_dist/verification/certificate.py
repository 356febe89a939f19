"""Each promise as a row: the error found on these processes and this backend, and the bound it must keep."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from simclr_dist.config import Recipe
from simclr_dist.data.loading.batches import ViewBatches
from simclr_dist.data.loading.order import SampleOrder
from simclr_dist.data.rendering.device_ import render_colors
from simclr_dist.data.rendering.renderers import RENDERERS
from simclr_dist.data.sources.base import ArraySource
from simclr_dist.distributed.collectives import gather_objects, maximum
from simclr_dist.distributed.data_parallel import data_parallel
from simclr_dist.distributed.processes import Processes
from simclr_dist.losses import NTXentLoss
from simclr_dist.methods.build import build_method
from simclr_dist.models import statistics_group
from simclr_dist.models.batch_norm import GroupedBatchNorm, average_running_statistics
from simclr_dist.optim import factory
from simclr_dist.training.gradients import compute_gradients
from simclr_dist.verification import reference

_IMAGE_SIDE, _EMBEDDING = 16, 32


@dataclass(frozen=True)
class Row:
    """One promise."""

    name: str
    error: float
    bound: float

    @property
    def holds(self) -> bool:
        return self.error <= self.bound  # not a number is no pass either


class Certificate:
    """The checks for a recipe on the processes that are here; every process makes one and calls :meth:`rows`.

    The networks and images are small, so that it takes seconds; the mapping of batch-norm groups onto processes, the
    temperature, the views and the optimizer are the recipe's.
    """

    def __init__(self, recipe: Recipe, processes: Processes, device: torch.device) -> None:
        self.processes, self.device = processes, device
        share = recipe.global_batch_images // processes.count
        group = recipe.batch_norm_group_images or recipe.global_batch_images
        # The same mapping in small: so many groups in a process, or so many processes in a group.
        self.share = 4 * max(2, share // group)
        self.group = self.share * group // share if group >= share else 4
        self.batch = self.share * processes.count
        self.recipe = dataclasses.replace(
            recipe,
            global_batch_images=self.batch,
            batch_norm_group_images=self.group,
            data=dataclasses.replace(recipe.data, image_size=_IMAGE_SIDE),
            encoder=dataclasses.replace(
                recipe.encoder, name="resnet10", width=0.25, stem="small", zero_init_residual=False
            ),
            projection=dataclasses.replace(recipe.projection, output_dim=_EMBEDDING, hidden_dim=0),
        )

    def rows(self) -> list[Row]:
        """All checks; the error is the largest of any process."""
        found = [
            ("loss gradient", self._loss_gradient(), 1e-12),
            ("grouped batch norm", self._batch_norm(), 1e-11),
            ("parameter gradients", self._parameter_gradients(), 1e-10),
            ("chunks", self._chunks(), 1e-10),
            ("LARS step", self._lars(), 1e-12),
            ("sample order", self._order(), 0.0),
            ("views", self._views(), 0.0),
            ("renderers", self._renderers(), 0.5 / 255),
        ]
        errors = maximum(
            [error if error == error else 1e30 for _, error, _ in found], self.device, label="errors of the certificate"
        )
        return [Row(name, error, bound) for (name, _, bound), error in zip(found, errors, strict=True)]

    def _random(self, *shape: int) -> Tensor:
        """The same numbers on every process and device."""
        generator = torch.Generator().manual_seed(sum(shape))
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.device)

    def _own(self, batch: Tensor) -> Tensor:
        return batch.chunk(self.processes.count)[self.processes.rank].clone()

    def _loss_gradient(self) -> float:
        z = [self._random(self.batch, _EMBEDDING), self._random(self.batch, _EMBEDDING + 1)[:, :-1].clone()]
        own = [self._own(tensor).requires_grad_() for tensor in z]
        whole = [tensor.requires_grad_() for tensor in z]
        temperature = self.recipe.method.temperature
        # DDP's mean over processes takes out the factor that the loss puts in.
        got = torch.autograd.grad(NTXentLoss(temperature)(*own), own)
        expected = torch.autograd.grad(reference.nt_xent(whole[0], whole[1], temperature), whole)
        return max(_error(g / self.processes.count, self._own(e)) for g, e in zip(got, expected, strict=True))

    def _batch_norm(self) -> float:
        channels, rows = 6, 2 * self.group
        x, factors = 10 + self._random(2 * self.batch, channels, 3, 2), self._random(2 * self.batch, channels, 2, 3)
        norm = GroupedBatchNorm(channels, statistics=self._statistics()).to(self.device, torch.float64)
        own, whole = self._own(x).requires_grad_(), x.clone().requires_grad_()
        y = norm(own)
        (y * self._own(factors.transpose(2, 3))).sum().backward()
        average_running_statistics(norm)
        expected = reference.batch_norm(whole, rows, norm.weight.detach(), norm.bias.detach())
        (expected * factors.transpose(2, 3)).sum().backward()
        assert own.grad is not None
        assert whole.grad is not None
        assert norm.running_var is not None
        return max(
            _error(y, self._own(expected.detach())),
            _error(own.grad, self._own(whole.grad)),
            _error(norm.running_var, reference.running_variance(x, rows, 0.1)),
        )

    def _statistics(self, chunk_images: int = 0, group: int = 0) -> statistics_group.StatisticsGroup:
        count = self.processes.count
        return statistics_group.divide_batch_norm(group or self.group, self.batch, count, chunk_images=chunk_images)

    def _pixels(self) -> Tensor:
        noise = self._random(self.batch, 2, 3, _IMAGE_SIDE, _IMAGE_SIDE)
        return (128 + 40 * (noise + noise[:, :1])).clamp(0, 255).to(torch.uint8)

    def _gradients(self, group: int, chunk_images: int) -> float:
        method = build_method(self.recipe, self._statistics(chunk_images, group)).to(self.device, torch.float64)
        # The recipe's seed gives the same weights once more.
        twin = build_method(self.recipe).to(self.device, torch.float64)
        expected = reference.gradients(twin, self._pixels(), group)
        compute_gradients(
            method, data_parallel(method, self.device), self._own(self._pixels()), chunk_images=chunk_images
        )
        got = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
        return _error(got, torch.cat([gradient.flatten() for gradient in expected.values()]))

    def _parameter_gradients(self) -> float:
        return self._gradients(self.group, 0)

    def _chunks(self) -> float:
        return self._gradients(4, 4)  # four images: the smallest group there is here, and each a chunk

    def _lars(self) -> float:
        module = build_method(self.recipe).to(self.device, torch.float64)
        gradient = {name: self._random(*p.shape) for name, p in module.named_parameters()}
        recipe = dataclasses.replace(self.recipe.optimizer, name="lars", classic_momentum=True, weight_decay=1e-4)
        rates = [0.1, 0.2, 0.15]
        expected = reference.lars_steps(
            module, gradient, rates, recipe.momentum, recipe.weight_decay, recipe.trust_coefficient
        )
        optimizer = factory.make_optimizer(module, recipe)
        for rate in rates:
            for group in optimizer.param_groups:
                group["lr"] = rate
            for name, parameter in module.named_parameters():
                parameter.grad = gradient[name].clone()
            optimizer.step()
        return max(_error(p.detach(), expected[name]) for name, p in module.named_parameters())

    def _order(self) -> float:
        images = 10 * self.batch + 1
        order = SampleOrder(seed=self.recipe.seed, images=images, global_batch_images=self.batch)
        wrong = 0
        for step in (0, 3, order.steps_per_epoch):
            shares = gather_objects(order.samples(step, self.processes.rank, self.processes.count).tolist())
            together = [sample for share in shares for sample in share]
            wrong += sum(a != b for a, b in zip(together, order.samples(step).tolist(), strict=True))
        epoch = [sample for step in range(order.steps_per_epoch) for sample in order.samples(step).tolist()]
        return float(wrong + len(epoch) - len(set(epoch)))

    def _views(self) -> float:
        source, order = self._images()
        own = ViewBatches(source, self.recipe, order, self.processes.rank, self.processes.count)[1].images
        together = np.concatenate(gather_objects(own.numpy()))
        # Rank 0's word counts: what one process alone would see.
        alone = gather_objects(ViewBatches(source, self.recipe, order)[1].images.numpy())[0]
        return float(np.abs(together.astype(np.int64) - alone.astype(np.int64)).max())

    def _renderers(self) -> float:
        """Mean difference from torchvision's operations, in 0..1, of the numba and of the device renderer."""
        source, order = self._images()
        larger = dataclasses.replace(self.recipe.data, image_size=2 * _IMAGE_SIDE)  # so large that there is a blur
        batches = ViewBatches(source, dataclasses.replace(self.recipe, data=larger), order)
        reference = dataclasses.replace(batches, renderer=RENDERERS["torchvision"])[1].images
        crops = dataclasses.replace(batches, colors=False)[1]
        assert crops.choices
        colored = render_colors(crops.images.to(self.device), crops.choices, self.recipe.views.color_form).cpu()
        return max(float((views - reference.float()).abs().mean()) / 255 for views in (batches[1].images, colored))

    def _images(self) -> tuple[ArraySource, SampleOrder]:
        pixels = np.random.default_rng(0).integers(0, 256, (2 * self.batch, 3, 20, 24), dtype=np.uint8)
        return ArraySource(pixels, None, []), SampleOrder(
            seed=self.recipe.seed, images=len(pixels), global_batch_images=self.batch
        )


def _error(value: Tensor, expected: Tensor) -> float:
    """|value - expected| / |expected|, over all elements: a wrong scale shows as well as a wrong direction."""
    return float((value.detach().double() - expected.double()).norm() / expected.double().norm())


def table(rows: list[Row], where: str) -> str:
    """The certificate as text."""
    lines = [f"{'':<22}{'error':>10}{'bound':>10}   {where}"]
    lines += [
        f"{row.name:<22}{row.error:>10.1e}{row.bound:>10.0e}   {'holds' if row.holds else 'FAILS'}" for row in rows
    ]
    return "\n".join(lines)
