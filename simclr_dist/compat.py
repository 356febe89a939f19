"""What torch has renamed, under the names of its newest version; the older name is taken where that one is not there.

Which versions of torch and Python are tested stands in ``script/test_versions``.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

all_gather_single: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""``all_gather_into_tensor`` before torch 2.14, with the same arguments."""

set_timeout: Callable[..., Any] = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
"""``_set_pg_timeout`` before torch 2.14, with the same arguments."""

_has_new_name = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
BUFFERS_STAY: dict[str, Any] = {"forward_sync_buffers" if _has_new_name else "broadcast_buffers": False}
"""Arguments of DDP: its forward pass leaves the module's buffers alone."""
