"""Which numbers were the first that are not finite: of a layer, forward or backward, or of weights."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from simclr_dist.distributed.collectives import gather_objects
from simclr_dist.distributed.launchers import host_here

_WEIGHTS, _FORWARD, _BACKWARD = range(3)


class NumericsWatch:
    """While entered, checks the weights, then every layer's output and the gradient that reaches it.

    Keeps the first that is not finite. Each check waits for the device, so a step is several times slower. Layers
    inside a compiled function are not seen: run it uncompiled.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.first: tuple[int, int, str] | None = None
        """(pass, number in its order, in words)."""
        self._checks = 0
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> "NumericsWatch":
        self.first, self._checks = None, 0
        for name, weight in self.module.named_parameters():
            self._check(_WEIGHTS, weight, f"the weights {name} are not finite before the step")
        for name, layer in self.module.named_modules():
            self._handles.append(layer.register_forward_hook(partial(self._after, name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def found(self) -> str:
        """The first over all processes, and on which; "" when all was finite. Every process must call this."""
        host = host_here()
        everyone = gather_objects((self.first, host))
        found = [(*first[:2], rank, first[2], where) for rank, (first, where) in enumerate(everyone) if first]
        if not found:
            return ""
        *_, rank, text, where = min(found)
        return f"on process {rank} on {where}, {text}" if len(everyone) > 1 else text

    def _after(self, name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """The forward hook of a layer; those inside it were called before."""
        kind = type(layer).__name__
        what = f"{name} ({kind})" if name else f"{kind}, whose layers' outputs are finite"
        for tensor in _tensors(output):
            if self.first is None:
                self._check(_FORWARD, tensor, f"first not finite: the output of {what}", layer, inputs)
            if tensor.requires_grad:
                text = f"first not finite: the gradient that reaches the output of {what}"
                tensor.register_hook(partial(self._check, _BACKWARD, text=text))

    def _check(
        self, stage: int, tensor: Tensor, text: str, layer: nn.Module | None = None, inputs: tuple[Any, ...] = ()
    ) -> None:
        self._checks += 1
        tensor = tensor.detach()  # a recomputation must not find more saved for the backward pass than it saves itself
        if self.first is not None or bool(torch.isfinite(tensor).all()):
            return
        counts = f"{int(tensor.isnan().sum())} nan and {int(tensor.isinf().sum())} inf of {tensor.numel()} numbers"
        largest = [
            f"{word} at most {max(values):.3g}"
            for word, values in (
                ("input", [_largest(each) for each in _tensors(inputs)]),
                ("weights", [_largest(each) for each in layer.parameters(recurse=False)] if layer else []),
            )
            if values
        ]
        self.first = (stage, self._checks, f"{text}: {counts}{'; ' if largest else ''}{', '.join(largest)}")


def where_not_finite(module: nn.Module, again: Callable[[], dict[str, float]], watch: NumericsWatch | None) -> str:
    """The layer where the numbers of a step went wrong, in words. Every process calls it.

    Args:
        module: that computes them.
        again: computes the step once more; its loss and gradient norm.
        watch: of the step itself; None: there was none, and it is computed again under one.
    """
    if watch is None:
        # The layers inside what is compiled call no hooks.
        with torch.compiler.set_stance("force_eager"), NumericsWatch(module) as watch:
            values = again()
        if all(map(math.isfinite, values.values())):
            return (
                "computed again, the same step is finite: a memory or GPU may be faulty (simclr-dist doctor), or a "
                "kernel is not deterministic"
            )
    return watch.found() or "every layer's output and gradient is finite: the loss or the gradient's norm overflows"


def _tensors(value: Any) -> list[Tensor]:
    """The floating-point tensors of a layer's input or output."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for each in values for tensor in _tensors(each)]


def _largest(tensor: Tensor) -> float:
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0
