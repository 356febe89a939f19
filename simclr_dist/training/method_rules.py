"""Whether a method keeps to the seam (:mod:`simclr_dist.methods.base`), tried on a few black images before a run."""

from typing import NoReturn

import torch

from simclr_dist.config import Recipe
from simclr_dist.data.loading.batch import Batch, blank_batch
from simclr_dist.errors import AgreedError
from simclr_dist.methods.base import Method
from simclr_dist.models.batch_norm import norms_of, statistics_held
from simclr_dist.models.statistics_group import StatisticsGroup
from simclr_dist.training.gradients import leaves


def check_rules(method: Method, recipe: Recipe, statistics: StatisticsGroup, group_images: int) -> None:
    """Refuse a method whose trajectory would depend on the machine. Every process calls it; nothing is left changed.

    Args:
        method: on its device, with the run's weights.
        recipe: what is computed.
        statistics: how the batch-norm groups lie here.
        group_images: of a batch-norm group in this process.

    Raises:
        UserError: naming the method and what it does: a trained parameter acts in ``loss``, the loss does not depend
            on the embeddings, ``loss`` returns other metrics than METRICS, or a buffer moves outside ``after_update``.
    """
    device = next(method.parameters()).device
    batch = blank_batch(recipe, statistics.local_groups * min(2, group_images), device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), statistics_held(method):
        _check(method, recipe.method.name, batch)
    method.zero_grad(set_to_none=True)


def _check(method: Method, name: str, batch: Batch) -> None:
    norms = {id(buffer) for norm in norms_of(method) for buffer in norm.buffers()}
    state = [(key, buffer, buffer._version) for key, buffer in method.named_buffers() if id(buffer) not in norms]
    with torch.no_grad():
        batch = method.prepare(batch)
        targets, embeddings = method.targets(batch), method.embed(batch)
    outputs = method.global_loss(leaves(embeddings), targets, batch)
    if "loss" not in outputs:
        _refuse(name, "loss() returns no 'loss'")
    if wrong := sorted({*outputs} ^ {"loss", *method.METRICS}):
        where = "METRICS does not have" if wrong[0] in outputs else "METRICS has, and loss() does not return"
        _refuse(name, f"{where} '{wrong[0]}'; every metric stands in both")
    if not outputs["loss"].requires_grad:
        _refuse(name, "the loss does not depend on the embeddings, so nothing would be trained")
    outputs["loss"].backward()
    if trained := [key for key, parameter in method.named_parameters() if parameter.grad is not None]:
        _refuse(
            name,
            f"the trained parameter {trained[0]} acts in loss(), with chunks outside DistributedDataParallel: the "
            "processes' weights would drift apart; let it act in embed()",
        )
    if moved := [key for key, buffer, version in state if buffer._version != version]:
        _refuse(
            name, f"the buffer {moved[0]} moves before the update; move it in after_update(), which skips with a step"
        )


def _refuse(name: str, why: str) -> NoReturn:
    raise AgreedError(f"recipe.method.name: {name}: {why} (docs/methods.md)")
