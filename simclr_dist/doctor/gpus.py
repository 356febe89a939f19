"""The GPUs, as torch and the driver see them. Ran on one H100."""

import shutil
import subprocess
from collections.abc import Iterator

from simclr_dist.doctor.findings import NOTE, Finding
from simclr_dist.doctor.versions import loads
from simclr_dist.units import show_bytes

_AREA = "GPUs"
_IN_USE = 1 << 30


def findings() -> Iterator[Finding]:
    """One line a GPU, or why there is none."""
    drivers = _drivers()
    if drivers:
        yield Finding(_AREA, "driver", f"{drivers[0]}, {len(drivers)} GPUs")
    if not loads("torch"):
        yield Finding(_AREA, "GPUs", "unknown without torch", NOTE, "see above")
        return
    import torch

    if not torch.cuda.is_available():
        if drivers and torch.version.cuda is None:
            cure = "this torch is built for CPUs: install one for CUDA, or runs use the CPU"
        elif drivers:
            cure = f"the driver may be too old for CUDA {torch.version.cuda}, or the GPUs hidden; runs use the CPU"
        else:
            cure = "runs use the CPU"
        yield Finding(_AREA, "GPUs", f"torch {torch.__version__} sees none", NOTE, cure)
        return
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else "not there"
    yield Finding(_AREA, "CUDA", f"{torch.version.cuda}, NCCL {nccl}")
    for number in range(torch.cuda.device_count()):
        yield _gpu(number)


def _gpu(number: int) -> Finding:
    import torch

    properties = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    capability = (properties.major, properties.minor)
    found = f"{properties.name}, {show_bytes(total)}, compute capability {capability[0]}.{capability[1]}"
    if total - free > _IN_USE:
        cure = "another process uses it: a run may not fit beside it"
        return Finding(_AREA, f"GPU {number}", f"{found}, {show_bytes(total - free)} in use", NOTE, cure)
    if capability < (8, 0):
        return Finding(_AREA, f"GPU {number}", found, NOTE, "no fast bfloat16: machine.precision=float16")
    return Finding(_AREA, f"GPU {number}", found)


def _drivers() -> list[str]:
    """Version of the driver, once for each GPU that it knows."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (subprocess.SubprocessError, OSError):
        return []
    return done.stdout.split()
