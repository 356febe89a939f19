"""A GPU that is not there, for tests of what the code does with one: which tensors are where, and what is computed.

Tensors say ``cuda`` and compute on the CPU (pretended_tensors.py). Streams, events and the device's facts are made up,
a CUDA graph is what was called while it was recorded, and torch's kernels of batch norm for CUDA alone are stand-ins.
Not here: time, memory, order between streams, Triton, NCCL, and any kernel of CUDA's.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import wraps
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from simclr_dist.models import batch_norm_triton
from tests.support.pretended_tensors import CPU, GPU, Graph, MadeOnGpu, OnGpu, moved, on_gpu, recorded
from tests.support.sync_kernels import KERNELS

GB = 1 << 30


class Stream:
    """``torch.cuda.Stream``: all is done when it is asked for."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.cuda_stream = 0

    def wait_stream(self, _other: Any) -> None: ...

    def wait_event(self, _event: Any) -> None: ...

    def record_event(self, event: Any = None) -> Any:
        return event or Event()

    def is_capturing(self) -> bool:
        return False


class Event:
    """``torch.cuda.Event``: it has happened."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, _stream: Any = None) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True


_STREAM = Stream()
_FACTS = SimpleNamespace(
    name="pretended", uuid="GPU-0", total_memory=80 * GB, major=8, minor=0, multi_processor_count=108
)
_RUNTIME: dict[str, Any] = {
    "is_available": lambda: True, "is_initialized": lambda: True, "device_count": lambda: 1,
    "current_device": lambda: 0, "set_device": lambda _: None, "synchronize": lambda _=None: None,
    "get_device_properties": lambda _=None: _FACTS, "get_device_name": lambda _=None: _FACTS.name,
    "get_device_capability": lambda _=None: (8, 0), "is_bf16_supported": lambda *_, **__: True,
    "mem_get_info": lambda _=None: (70 * GB, 80 * GB), "empty_cache": lambda: None,
    "max_memory_allocated": lambda _=None: GB, "max_memory_reserved": lambda _=None: GB,
    "get_rng_state": lambda _=None: torch.get_rng_state(), "manual_seed_all": lambda _: None,
    "set_rng_state": lambda state, _=None: torch.set_rng_state(state),
    "Stream": Stream, "Event": Event, "current_stream": lambda _=None: _STREAM,
    "default_stream": lambda _=None: _STREAM, "stream": nullcontext, "device": nullcontext, "device_of": nullcontext,
    "CUDAGraph": Graph, "graph": recorded, "graph_pool_handle": lambda: None,
}  # fmt: skip


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Inside, ``torch.cuda`` has one GPU."""
    convert, begin, autocast = Tensor.to, DataLoader.__init__, torch.autocast
    of_cpu: dict[str, Callable[..., Any]] = {name: getattr(torch, name) for name in KERNELS}

    def to(tensor: Tensor, *args: Any, copy: bool = False, memory_format: Any = None, **kwargs: Any) -> Tensor:
        other = args[0] if args and isinstance(args[0], Tensor) else kwargs.pop("other", None)
        if other is not None:
            args, kwargs = (), {**kwargs, "device": other.device, "dtype": other.dtype}
        device, dtype, _, given = torch._C._nn._parse_to(*args, **kwargs)  # type: ignore[attr-defined]
        layout = {} if (memory_format or given) is None else {"memory_format": memory_format or given}
        if device is None or on_gpu(device) == isinstance(tensor, OnGpu):
            return convert(tensor, dtype or tensor.dtype, copy=copy, **layout)
        return moved(tensor, GPU if on_gpu(device) else CPU, dtype or tensor.dtype, **layout)

    def from_values(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @wraps(make)
        def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
            tensor = data if isinstance(data, OnGpu) else make(data, *args, **kwargs)
            return tensor if device is None else tensor.to(device)

        return made

    def kernel(name: str) -> Callable[..., Any]:
        return lambda x, *rest, **named: (KERNELS if isinstance(x, OnGpu) else of_cpu)[name](x, *rest, **named)

    def one_hot(labels: Tensor, num_classes: int = -1) -> Tensor:
        """torch's makes its classes in C++, for which our tensors are on the CPU."""
        return (labels.unsqueeze(-1) == torch.arange(num_classes, device=labels.device)).long()

    replaced: list[tuple[Any, str, Any]] = [
        *((torch.cuda, name, value) for name, value in _RUNTIME.items()),
        *((torch, name, from_values(getattr(torch, name))) for name in ("tensor", "as_tensor")),
        *((torch, name, kernel(name)) for name in KERNELS),
        (torch.accelerator, "current_stream", lambda _=None: _STREAM),
        (torch, "autocast", lambda _device_type, *args, **kwargs: autocast("cpu", *args, **kwargs)),
        # In torch's own, no views are made of such tensors as ours.
        (torch._C, "_InferenceMode", lambda mode: torch.no_grad() if mode else nullcontext()),
        (F, "one_hot", one_hot),
        (Tensor, "to", to),
        (Tensor, "cpu", lambda tensor: to(tensor, CPU)),
        (Tensor, "cuda", lambda tensor, *_, **__: to(tensor, GPU)),
        (Tensor, "pin_memory", lambda tensor, *_: tensor.clone()),
        (Tensor, "record_stream", lambda _tensor, _stream: None),
        (DataLoader, "__init__", lambda self, *args, pin_memory=False, **kwargs: begin(self, *args, **kwargs)),
        (batch_norm_triton, "starts_programs", lambda: False),
    ]
    with ExitStack() as stack:
        for place, name, value in replaced:
            stack.enter_context(patch.object(place, name, value))
        # A module's new parameters take the places of the old ones: the two kinds of tensor cannot share a place.
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, before)
        stack.enter_context(MadeOnGpu())
        yield
