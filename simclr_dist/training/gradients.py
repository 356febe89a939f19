"""The gradients of a step, of the whole share at once or chunk by chunk.

Gradient caching (Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup"): the
embeddings of all chunks without a graph, the loss and its gradient on them, then each chunk once more, with a graph, to
carry that gradient on to the parameters. Exact as long as a chunk holds whole batch-norm groups: memory is that of one
chunk, the price a second forward pass.
"""

from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from simclr_dist.data.loading.batch import Batch
from simclr_dist.distributed.watchdog.progress import begin_collective
from simclr_dist.methods.base import Method, Pass, Tensors
from simclr_dist.models.batch_norm import statistics_held, statistics_of_one_pass
from simclr_dist.models.precision import half_precision

BACKWARD = "gradients (backward pass)"
"""Label of the collectives of DDP, which are within."""


class Computed(NamedTuple):
    """What a step has seen, over this process's share."""

    outputs: Tensors
    """The method's loss and metrics, detached: what the loss keeps for its backward pass is let go with it."""
    embeddings: Tensors
    """Detached."""
    targets: Tensors
    batch: Batch
    """As the method has prepared it."""


def compute_gradients(
    method: Method,
    parallel: nn.Module,
    batch: Batch,
    *,
    chunk_images: int = 0,
    autocast: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> Computed:
    """Forward and backward pass; the gradients, averaged over processes, stand in the parameters.

    Args:
        method: the module itself.
        parallel: the same in DDP, or itself.
        batch: this process's share, in pixels on the device.
        chunk_images: taken at once; 0: all.
        autocast: the half precision of the kernels, if any.
        scaler: scales the loss (None: not at all).
    """
    half = partial(half_precision, batch.device, autocast)

    def backward(loss: Tensor) -> None:
        begin_collective(BACKWARD)
        (scaler.scale(loss) if scaler else loss).backward()

    with torch.no_grad():
        batch = method.prepare(batch)
    chunks = batch.split(chunk_images) if 0 < chunk_images < len(batch) else [batch]
    as_one = statistics_of_one_pass(method, len(chunks)) if len(chunks) > 1 else nullcontext()
    with torch.no_grad(), as_one, half():
        targets = _joined([method.targets(chunk) for chunk in chunks])
    if len(chunks) == 1:
        with half():
            whole: Pass = parallel(batch, targets)
        backward(whole.outputs["loss"])
        return Computed(detached(whole.outputs), detached(whole.embeddings), targets, batch)

    states, embeddings = [], []
    with torch.no_grad(), statistics_of_one_pass(method, len(chunks)), half():
        for chunk in chunks:
            states.append(_random_state(batch.device))
            embeddings.append(method.embedded(chunk))
    cached = leaves(_joined(embeddings))
    del embeddings  # as large once more, and the chunks' backward passes are where memory is short
    outputs = method.global_loss(cached, targets, batch)
    backward(outputs["loss"])
    outputs = detached(outputs)
    gradients = {name: each.grad for name, each in cached.items() if each.grad is not None}
    with statistics_held(method):
        for number, (chunk, state) in enumerate(zip(chunks, states, strict=True)):
            # DDP sums over processes once, with the last chunk's backward pass.
            last = chunk is chunks[-1]
            with nullcontext() if last or not isinstance(parallel, DistributedDataParallel) else parallel.no_sync():
                _set_random_state(batch.device, state)  # dropout must drop the same again
                with half():
                    again: Pass = parallel(chunk, embed_only=True)
                begin_collective(BACKWARD)
                # What a method has detached ends there, as it does in one pass.
                trained = {name: each for name, each in again.embeddings.items() if each.requires_grad}
                of_chunk = {name: gradients[name].split(chunk_images)[number] for name in trained if name in gradients}
                torch.autograd.backward(
                    [trained[name] for name in of_chunk],
                    [each.to(trained[name].dtype) for name, each in of_chunk.items()],
                )
    return Computed(outputs, detached(cached), targets, batch)


def leaves(tensors: Tensors) -> Tensors:
    """The same numbers, cut off from what they were computed from; those with a point are differentiated."""
    return {name: each.detach().requires_grad_(each.is_floating_point()) for name, each in tensors.items()}


def detached(tensors: Tensors) -> Tensors:
    """The same numbers without a graph."""
    return {name: each.detach() for name, each in tensors.items()}


def _joined(chunks: list[Tensors]) -> Tensors:
    return chunks[0] if len(chunks) == 1 else {name: torch.cat([each[name] for each in chunks]) for name in chunks[0]}


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
