"""The gradients of a step, of the whole share at once or chunk by chunk.

Gradient caching (Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup"): the
embeddings of all chunks without a graph, the loss and its gradient on them, then each chunk once more, with a graph, to
carry that gradient on to the parameters. Exact as long as a chunk holds whole batch-norm groups: memory is that of one
chunk, the price a second forward pass.
"""

from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from simclr_dist.distributed.watchdog.progress import begin_collective
from simclr_dist.methods import SimCLR
from simclr_dist.models.batch_norm import statistics_held, statistics_of_one_pass
from simclr_dist.models.precision import half_precision

_BACKWARD = "gradients (backward pass)"  # DDP's collectives are within


def compute_gradients(
    method: SimCLR,
    parallel: nn.Module,
    images: Tensor,
    *,
    chunk_images: int = 0,
    autocast: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, Tensor]:
    """Forward and backward pass; the gradients, averaged over processes, stand in the parameters.

    Args:
        method: the module itself, with ``embed`` and ``loss``.
        parallel: the same in DDP, or itself.
        images: uint8 views of this process's share, (local images, views, 3, height, width), on the device.
        chunk_images: taken at once; 0: all.
        autocast: the half precision of the kernels, if any.
        scaler: scales the loss (None: not at all).

    Returns:
        the method's loss and metrics.
    """

    half = partial(half_precision, images.device, autocast)

    def backward(loss: Tensor) -> None:
        begin_collective(_BACKWARD)
        (scaler.scale(loss) if scaler else loss).backward()

    if not chunk_images or chunk_images >= len(images):
        with half():
            outputs: dict[str, Tensor] = parallel(images)
        backward(outputs["loss"])
        return outputs
    chunks, states, embeddings = images.split(chunk_images), [], []
    with torch.no_grad(), statistics_of_one_pass(method), half():
        for chunk in chunks:
            states.append(_random_state(images.device))
            embeddings.append(method.embed(chunk))
    cached = torch.cat(embeddings).requires_grad_()
    outputs = method.loss(cached)
    backward(outputs["loss"])
    assert cached.grad is not None
    with statistics_held(method):
        for chunk, state, gradient in zip(chunks, states, cached.grad.split(chunk_images), strict=True):
            # DDP sums over processes once, with the last chunk's backward pass.
            last = chunk is chunks[-1]
            with nullcontext() if last or not isinstance(parallel, DistributedDataParallel) else parallel.no_sync():
                _set_random_state(images.device, state)  # dropout must drop the same again
                with half():
                    again = parallel(chunk, embed_only=True)["embeddings"]
                begin_collective(_BACKWARD)
                again.backward(gradient.to(again.dtype))
    return outputs


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
