"""Tensors that say ``cuda`` and compute on the CPU, with a GPU's refusals: other devices' tensors, reads in a graph."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

CPU = torch.device("cpu")
aten = torch.ops.aten
# Whose arguments may lie on two devices; the last is how DDP brings a gradient into a bucket, which C++ has made.
_COPIES = (aten._to_copy.default, aten.copy_.default, aten.mul.out)
_INDEXED = (
    aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
)  # fmt: skip
# What the host would have to wait for.
_READS = (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default)


class OnGpu(Tensor):
    """A tensor of the pretended GPU; its numbers stand in ``held``.

    torch's own C++ takes it for one on the CPU, as its engine would ask CUDA for streams. So a device that C++ names
    (in a gradient's formula, say) is this tensor's; what a user names comes by :func:`moved`.
    """

    held: Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, held: Tensor, place: torch.device) -> Self:
        made: Any = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=CPU, layout=held.layout,
        )  # fmt: skip
        made.held, made.place = held, place
        return made  # type: ignore[no-any-return]

    device = property(lambda self: self.place)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    @property
    def data(self) -> Tensor:
        return Tensor.data.__get__(self)  # type: ignore[attr-defined,no-any-return]

    @data.setter
    def data(self, value: "OnGpu") -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.held, self.place = value.held, value.place

    def get_device(self) -> int:
        return self.place.index

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def tolist(self) -> Any:
        _refuse_reads_in_graphs("tolist")
        return self.held.tolist()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({self.held!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copy = self.detach().clone()
        memo[id(self)] = nn.Parameter(copy, self.requires_grad) if isinstance(self, nn.Parameter) else copy
        return memo[id(self)]  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class MadeOnGpu(TorchDispatchMode):
    """Inside, what is made with ``device="cuda"`` is made on the pretended one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class Graph:
    """``torch.cuda.CUDAGraph``: what was called while it was recorded, on tensors that stay where they are."""

    def __init__(self) -> None:
        self._calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def note(self, func: Callable[..., Any], args: Any, kwargs: Any, made: Any) -> None:
        """A call, on tensors of the CPU."""
        self._calls.append((func, args, kwargs, made))

    def replay(self) -> None:
        """Everything once more, into the same memory."""
        for func, args, kwargs, made in self._calls:
            for place, value in zip(_tensors(made), _tensors(func(*args, **kwargs)), strict=True):
                if place.data_ptr() != value.data_ptr():
                    place.copy_(value)


_recorded: list[Graph] = []


@contextmanager
def recorded(graph: Graph, **_: Any) -> Iterator[None]:
    """``torch.cuda.graph``."""
    _recorded.append(graph)
    try:
        yield
    finally:
        _recorded.pop()


def moved(tensor: Tensor, device: torch.device, dtype: torch.dtype, **layout: Any) -> Tensor:
    """``tensor`` on the other device, as a user asks for it: differentiable."""
    with MadeOnGpu(), _by_user():
        made: Tensor = aten._to_copy.default(tensor, dtype=dtype, device=device, **layout)
    return made


def on_gpu(device: Any) -> bool:
    """Whether a device, by whatever name, is the pretended one."""
    return device is not None and torch.device(device).type == "cuda"


def on_index(device: Any) -> torch.device:
    """``device`` with the number of the current GPU, unless it has its own."""
    found = torch.device(device)
    return found if found.index is not None else torch.device(found.type, torch.cuda.current_device())


_asked: list[bool] = []


@contextmanager
def _by_user() -> Iterator[None]:
    _asked.append(True)
    try:
        yield
    finally:
        _asked.pop()


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    tensors = _tensors((args, kwargs))
    own = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
    if own and func not in _COPIES:
        _refuse_others(func, [args[0]] if func in _INDEXED else tensors)
    if own and func in _READS:
        _refuse_reads_in_graphs(str(func))
    place = _place_of_made(func, args, kwargs, own)
    if own and place is None:
        _refuse_reads_in_graphs(str(func))
    held_args, held_kwargs = _mapped(lambda each: each.held if isinstance(each, OnGpu) else each, (args, kwargs))
    if on_gpu(held_kwargs.get("device")):
        held_kwargs["device"] = CPU
    for page_locked in ("pin_memory", "non_blocking"):
        held_kwargs.pop(page_locked, None)
    made = func(*held_args, **held_kwargs)
    if place is None:
        return made
    if _recorded:
        _recorded[-1].note(func, held_args, held_kwargs, made)
    known = {id(tensor.held): tensor for tensor in own}
    made = _mapped(lambda each: known[id(each)] if id(each) in known else OnGpu(each, place), made)
    return return_and_correct_aliasing(func, args, kwargs, made) if own else made


def _mapped(function: Callable[[Tensor], Tensor], values: Any) -> Any:
    """``values`` with the function of each tensor in them."""
    if isinstance(values, Tensor):
        return function(values)
    if isinstance(values, list | tuple):
        return type(values)(_mapped(function, each) for each in values)
    return {key: _mapped(function, each) for key, each in values.items()} if isinstance(values, dict) else values


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _mapped(note, values)
    return found


def _place_of_made(func: Any, args: Any, kwargs: Any, own: list[OnGpu]) -> torch.device | None:
    """The GPU of what a function makes; None: the CPU."""
    if func is aten.copy_.default:
        return args[0].place if isinstance(args[0], OnGpu) else None
    device = kwargs.get("device")
    if device is None or (own and not (_asked and func is aten._to_copy.default)):
        return own[0].place if own else None
    return on_index(device) if on_gpu(device) else None


def _refuse_others(func: Any, tensors: list[Tensor]) -> None:
    """What torch says where tensors of two devices meet; a single number of the CPU may."""
    if len({tensor.device for tensor in tensors if isinstance(tensor, OnGpu) or tensor.dim()}) > 1 or not any(
        isinstance(tensor, OnGpu) for tensor in tensors
    ):
        where = ", ".join(f"{list(tensor.shape)} on {tensor.device}" for tensor in tensors)
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {where} ({func})")


def _refuse_reads_in_graphs(what: str) -> None:
    if _recorded:
        raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({what})")
