"""A GPU that is not there, for tests of what the code does with one: which tensors are where, and what is computed.

Tensors say ``cuda`` and compute on the CPU (pretended_tensors.py). Streams, events and the device's facts are made up,
a CUDA graph is what was called while it was recorded, torch's kernels of batch norm for CUDA alone are stand-ins, and
gloo's collectives end as NCCL's. Not here: time, memory, order of streams, Triton, NCCL itself, any kernel of CUDA's.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import wraps
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch._C._distributed_c10d import GradBucket
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils._device import _device_constructors
from torch.utils.data import DataLoader

from simclr_dist import compat
from simclr_dist.distributed import data_parallel
from simclr_dist.models import batch_norm_triton
from tests.support.pretended_tensors import CPU, Graph, MadeOnGpu, OnGpu, moved, on_gpu, on_index, recorded
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
_FACTS = SimpleNamespace(name="pretended", total_memory=80 * GB, major=8, minor=0, multi_processor_count=108)
_RUNTIME: dict[str, Any] = {
    "is_available": lambda: True, "is_initialized": lambda: True, "synchronize": lambda _=None: None,
    "get_device_name": lambda _=None: _FACTS.name, "get_device_capability": lambda _=None: (8, 0),
    "is_bf16_supported": lambda *_, **__: True, "mem_get_info": lambda _=None: (70 * GB, 80 * GB),
    "empty_cache": lambda: None, "max_memory_allocated": lambda _=None: GB,
    "max_memory_reserved": lambda _=None: GB,
    "get_rng_state": lambda _=None: torch.get_rng_state(), "manual_seed_all": lambda _: None,
    "set_rng_state": lambda state, _=None: torch.set_rng_state(state),
    "Stream": Stream, "Event": Event, "current_stream": lambda _=None: _STREAM,
    "default_stream": lambda _=None: _STREAM, "stream": nullcontext, "device": nullcontext, "device_of": nullcontext,
    "CUDAGraph": Graph, "graph": recorded, "graph_pool_handle": lambda: None,
}  # fmt: skip


class Parallel(DistributedDataParallel):
    """DDP whose buckets, which C++ makes on the CPU, are no parameter's gradient, and are summed as a GPU's."""

    def __init__(self, module: nn.Module, *, gradient_as_bucket_view: bool, **options: Any) -> None:
        super().__init__(module, **options)
        self.register_comm_hook(None, _mean)


def _mean(_: None, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    mean = bucket.buffer().div_(dist.get_world_size())
    dist.all_reduce(OnGpu(mean, on_index("cuda")))
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(mean)
    return done


_aborted = threading.Event()


def as_nccl(collective: Callable[..., Any]) -> Callable[..., None]:
    """A collective which, where a peer is lost, waits until it is aborted, and then ends with any numbers, no error."""

    @wraps(collective)
    def made(*tensors: Any, **options: Any) -> Any:
        if not any(isinstance(each, OnGpu) for each in tensors):
            return collective(*tensors, **options)
        held = [each.held if isinstance(each, OnGpu) else each for each in tensors]
        work = collective(*held, **options, async_op=True)
        while not work.is_completed():
            if _aborted.wait(1e-4):
                return None
        try:
            work.wait()
        except RuntimeError:
            _aborted.wait()
        return None

    return made


class Backend:
    """NCCL of a group."""

    def name(self) -> str:
        return "nccl"

    def abort(self) -> None:
        _aborted.set()


@contextmanager
def pretended_gpu(count: int = 1) -> Iterator[None]:
    """Inside, ``torch.cuda`` has so many GPUs. What processes exchange goes by gloo."""
    _device_constructors()  # torch keeps the functions of its first look
    convert, begin, autocast = Tensor.to, DataLoader.__init__, torch.autocast
    of_cpu: dict[str, Callable[..., Any]] = {name: getattr(torch, name) for name in KERNELS}

    def to(tensor: Tensor, *args: Any, copy: bool = False, memory_format: Any = None, **kwargs: Any) -> Tensor:
        other = args[0] if args and isinstance(args[0], Tensor) else kwargs.pop("other", None)
        if other is not None:
            args, kwargs = (), {**kwargs, "device": other.device, "dtype": other.dtype}
        device, dtype, _, given = torch._C._nn._parse_to(*args, **kwargs)  # type: ignore[attr-defined]
        layout = {} if (memory_format or given) is None else {"memory_format": memory_format or given}
        if not on_gpu(device) and not isinstance(tensor, OnGpu):
            return convert(tensor, device or tensor.device, dtype or tensor.dtype, copy=copy, **layout)
        if device is None or (on_index(device) if on_gpu(device) else device) == tensor.device:
            return convert(tensor, dtype or tensor.dtype, copy=copy, **layout)
        return moved(tensor, on_index(device) if on_gpu(device) else CPU, dtype or tensor.dtype, **layout)

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

    def init_process_group(backend: str, **options: Any) -> None:
        _aborted.clear()
        init_group("gloo" if "nccl" in backend else backend, **options)

    def backend_of(group: dist.ProcessGroup, device: torch.device) -> Any:
        return Backend() if device.type == "cuda" else get_backend(group, device)

    def shares_place(input: Tensor, from_: Tensor) -> bool:  # torch.compile compares the names with its own
        return input.device == from_.device

    def facts(device: Any = None) -> Any:
        return SimpleNamespace(**vars(_FACTS), uuid=f"GPU-{torch.device(device or 'cuda:0').index}")

    init_group, get_backend = dist.init_process_group, dist.ProcessGroup._get_backend
    current = [0]
    replaced: list[tuple[Any, str, Any]] = [
        (torch.cuda, "device_count", lambda: count),
        (torch.cuda, "current_device", lambda: current[0]),
        (torch.cuda, "set_device", lambda device: current.__setitem__(0, torch.device(device).index)),
        (dist.ProcessGroup, "_get_backend", backend_of),
        (dist, "all_reduce", as_nccl(dist.all_reduce)),
        (dist, "broadcast", as_nccl(dist.broadcast)),
        (compat, "all_gather_single", as_nccl(compat.all_gather_single)),
        (torch.cuda, "get_device_properties", facts),
        (dist, "init_process_group", init_process_group),
        (data_parallel, "DistributedDataParallel", Parallel),
        *((torch.cuda, name, value) for name, value in _RUNTIME.items()),
        *((torch, name, from_values(getattr(torch, name))) for name in ("tensor", "as_tensor")),
        *((torch, name, kernel(name)) for name in KERNELS),
        # A module's parameter that comes to the GPU, or leaves it, is a new one; on it, it stays the same.
        (torch, "_has_compatible_shallow_copy_type", shares_place),
        (torch.accelerator, "current_stream", lambda _=None: _STREAM),
        (torch, "autocast", lambda _device_type, *args, **kwargs: autocast("cpu", *args, **kwargs)),
        # In torch's own, no views are made of such tensors as ours.
        (torch._C, "_InferenceMode", lambda mode: torch.no_grad() if mode else nullcontext()),
        (F, "one_hot", one_hot),
        (Tensor, "to", to),
        (Tensor, "cpu", lambda tensor: to(tensor, CPU)),
        (Tensor, "cuda", lambda tensor, *_, **__: to(tensor, "cuda")),
        (Tensor, "pin_memory", lambda tensor, *_: tensor.clone()),
        (Tensor, "record_stream", lambda _tensor, _stream: None),
        (DataLoader, "__init__", lambda self, *args, pin_memory=False, **kwargs: begin(self, *args, **kwargs)),
        (batch_norm_triton, "starts_programs", lambda: False),
    ]
    with ExitStack() as stack:
        for place, name, value in replaced:
            stack.enter_context(patch.object(place, name, value))
        stack.enter_context(MadeOnGpu())
        yield
