"""Whether the recipe's own method computes on these processes, and in chunks, what one process computes."""

from typing import NamedTuple

import torch
from torch import Tensor

from simclr_dist.distributed.data_parallel import data_parallel
from simclr_dist.methods.base import Tensors
from simclr_dist.models.batch_norm import average_running_statistics
from simclr_dist.training.gradients import compute_gradients, leaves
from simclr_dist.verification.check import Check, largest, relative_error
from simclr_dist.verification.miniature import Miniature
from simclr_dist.verification.reference import PlainStep, gradients_of, one_process, state_after_update

_CHUNK = 4  # images: the smallest batch-norm group of a Miniature, and each a chunk
_ROUNDING = 1e-3  # a running mean that is 0 but for rounding has no relative error


def method_checks(small: Miniature) -> list[Check]:
    """The method against one process, whole and in chunks; against its plain reference, where it has one."""
    plain = one_process(small.method(), small.global_batch(), small.batch // small.group)
    by_chunk = one_process(small.method(group=_CHUNK), small.global_batch(), small.batch // _CHUNK)
    whole = _compared(small, plain, small.group, 0)
    chunks = _compared(small, by_chunk, _CHUNK, _CHUNK)
    checks = [
        Check("loss and metrics", largest([whole.outputs, chunks.outputs]), 1e-10),
        Check("parameter gradients", whole.gradients, 1e-10),
        Check("chunks", chunks.gradients, 1e-10),
        Check("state after update", largest([whole.state, chunks.state]), 1e-10),
    ]
    if plain.reference_loss is not None:
        checks.insert(0, Check("plain reference", _against_reference(small, plain), 1e-11))
    return checks


class _Errors(NamedTuple):
    outputs: float
    gradients: float
    state: float


def _compared(small: Miniature, expected: PlainStep, group: int, chunk_images: int) -> _Errors:
    """A step on all processes, against the same in one."""
    method = small.method(small.statistics(group, chunk_images), group)
    parallel = data_parallel(method, small.device)
    computed = compute_gradients(method, parallel, small.own_batch(), chunk_images=chunk_images)
    gradients = gradients_of(method)
    average_running_statistics(method)
    state = state_after_update(method, computed.embeddings, computed.targets, computed.batch)
    return _Errors(
        outputs=_worst(computed.outputs, expected.outputs),
        gradients=_together(gradients, expected.gradients),
        state=_worst(state, expected.state),
    )


def _against_reference(small: Miniature, plain: PlainStep) -> float:
    """Value and gradient of ``loss`` on the embeddings of :class:`PlainStep`, each process having its own of them."""
    assert plain.reference_loss is not None
    method = small.method(small.statistics())
    with torch.no_grad():
        batch = method.prepare(small.own_batch())
    own = leaves({name: small.own(each) for name, each in plain.embeddings.items()})
    outputs = method.loss(own, {name: small.own(each) for name, each in plain.targets.items()}, batch)
    outputs["loss"].backward()
    # DDP's mean over processes takes out the factor that the loss puts in.
    got = {name: each.grad / small.processes.count for name, each in own.items() if each.grad is not None}
    expected = {name: small.own(each) for name, each in plain.reference_gradients.items()}
    return largest([relative_error(outputs["loss"], plain.reference_loss), _together(got, expected)])


def _worst(values: Tensors, expected: Tensors) -> float:
    """Of several tensors, each for itself: a large one hides no small one."""
    if values.keys() != expected.keys():
        return float("inf")
    return largest([relative_error(values[name], expected[name], _ROUNDING) for name in expected])


def _together(values: Tensors, expected: Tensors) -> float:
    """Of several tensors as one: some gradients are nothing but rounding."""
    if values.keys() != expected.keys():
        return float("inf")
    return relative_error(_flat(values), _flat(expected))


def _flat(tensors: Tensors) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])
