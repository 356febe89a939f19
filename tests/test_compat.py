"""What torch has renamed is found under its older and its newer name, whichever this torch has."""

import runpy

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from simclr_dist import compat


def test_an_older_torchs_names_are_taken_where_the_newer_ones_are_not_there(monkeypatch):
    monkeypatch.delattr(dist, "all_gather_single", raising=False)
    monkeypatch.setattr(DistributedDataParallel, "__init__", lambda self, module, broadcast_buffers=True: None)
    names = runpy.run_path(compat.__file__)
    assert names["all_gather_single"] is dist.all_gather_into_tensor
    assert names["BUFFERS_STAY"] == {"broadcast_buffers": False}


def test_the_newer_names_are_taken_where_they_are_there(monkeypatch):
    def newer(*arguments: object) -> None: ...

    def begin(
        self: object, module: object, broadcast_buffers: object = None, forward_sync_buffers: object = None
    ) -> None:
        """DDP's of torch 2.14 has both names; the older one warns."""

    monkeypatch.setattr(dist, "all_gather_single", newer, raising=False)
    monkeypatch.setattr(DistributedDataParallel, "__init__", begin)
    names = runpy.run_path(compat.__file__)
    assert names["all_gather_single"] is newer
    assert names["BUFFERS_STAY"] == {"forward_sync_buffers": False}
