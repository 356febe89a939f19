"""Whether a method keeps to the seam (:mod:`simclr_dist.methods.base`), tried on a few black images before a run."""

from typing import Any, NoReturn

import torch
from torch import Tensor

from simclr_dist.config import Recipe
from simclr_dist.data.loading.batch import Batch, blank_batch
from simclr_dist.errors import AgreedError, UserError, first_line
from simclr_dist.methods.base import Method
from simclr_dist.models.batch_norm import norms_of, statistics_held
from simclr_dist.models.statistics_group import StatisticsGroup
from simclr_dist.training.convolution_rules import refusing_unwritten_gradients
from simclr_dist.training.encoder_rules import check_encoder
from simclr_dist.training.gradients import leaves


def check_rules(
    method: Method,
    recipe: Recipe,
    statistics: StatisticsGroup,
    group_images: int,
    half: torch.dtype | None = None,
) -> None:
    """Refuse a method whose trajectory would depend on the machine. Every process calls it; nothing is left changed.

    Args:
        method: on its device, with the run's weights.
        recipe: what is computed.
        statistics: how the batch-norm groups lie here.
        group_images: of a batch-norm group in this process.
        half: the kernels' half precision, None: there is none.

    Raises:
        UserError: naming the method and what it does: a trained parameter acts in ``loss`` or is not reached by it,
            ``loss`` returns other metrics than METRICS, a tensor's leading dimension is not the images, a buffer moves
            outside ``after_update``, or a convolution is one whose gradient this device does not compute.
    """
    device = next(method.parameters()).device
    batch = blank_batch(recipe, statistics.local_groups * min(2, group_images), device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), statistics_held(method):
        check_encoder(method.encoder, recipe)
        try:
            with refusing_unwritten_gradients(method, half):
                _check(method, recipe.method.name, batch)
        except UserError:
            raise
        except Exception as error:  # whatever somebody's class does; a method of this project is at fault itself
            if ":" not in recipe.method.name:
                raise
            where = f"on black images, before the first step: {type(error).__name__}: {first_line(error)}"
            raise AgreedError(f"recipe.method.name: {recipe.method.name} fails {where}; --debug shows where") from error
    method.zero_grad(set_to_none=True)


def _check(method: Method, name: str, batch: Batch) -> None:
    norms = {id(buffer) for norm in norms_of(method) for buffer in norm.buffers()}
    state = [(key, buffer, buffer._version) for key, buffer in method.named_buffers() if id(buffer) not in norms]
    with torch.no_grad():
        batch = method.prepare(batch)
        targets = method.targets(batch)
    embeddings = method.embedded(batch)
    for label, found in (("targets", targets), ("embed", embeddings)):
        _check_tensors(name, label, found, len(batch))
    cached = leaves(embeddings)
    outputs = method.global_loss(cached, targets, batch)
    if not isinstance(outputs, dict):
        _refuse(name, f"loss() returns {type(outputs).__name__}, not a dict of 'loss' and the metrics")
    if "loss" not in outputs:
        _refuse(name, "loss() returns no 'loss'")
    if wrong := sorted({*outputs} ^ {"loss", *method.METRICS}):
        where = "METRICS does not have" if wrong[0] in outputs else "METRICS has, and loss() does not return"
        _refuse(name, f"{where} '{wrong[0]}'; every metric stands in both")
    for key, value in outputs.items():
        if not isinstance(value, Tensor) or value.numel() != 1:
            _refuse(name, f"loss() returns '{key}', which is no scalar tensor")
    if not outputs["loss"].requires_grad:
        _refuse(name, "the loss does not depend on the embeddings, so nothing would be trained")
    outputs["loss"].backward()
    if trained := _with_gradient(method, True):
        _refuse(
            name,
            f"the trained parameter {trained[0]} acts in loss(), with chunks outside DistributedDataParallel: the "
            "processes' weights would drift apart; let it act in embed()",
        )
    reached = [key for key, each in cached.items() if each.grad is not None and embeddings[key].requires_grad]
    torch.autograd.backward([embeddings[key] for key in reached], [cached[key].grad for key in reached])
    if untrained := _with_gradient(method, False):
        _refuse(
            name,
            f"the loss does not reach the parameter {untrained[0]}; what is not trained by gradients (a teacher) needs "
            "requires_grad_(False), and what is not used should go",
        )
    if moved := [key for key, buffer, version in state if buffer._version != version]:
        _refuse(
            name, f"the buffer {moved[0]} moves before the update; move it in after_update(), which skips with a step"
        )


def _check_tensors(name: str, label: str, found: Any, images: int) -> None:
    if not isinstance(found, dict):
        _refuse(name, f"{label}() returns {type(found).__name__}, not a dict of names -> tensors")
    for key, each in found.items():
        if not isinstance(each, Tensor) or not each.dim() or len(each) != images:
            shape = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
            _refuse(
                name, f"{label}() returns '{key}' {shape} for {images} images; its leading dimension must be theirs"
            )


def _with_gradient(method: Method, has: bool) -> list[str]:
    """The trained parameters that have a gradient, or have none."""
    return [key for key, each in method.named_parameters() if each.requires_grad and (each.grad is not None) == has]


def _refuse(name: str, why: str) -> NoReturn:
    raise AgreedError(f"recipe.method.name: {name}: {why} (docs/methods.md)")
