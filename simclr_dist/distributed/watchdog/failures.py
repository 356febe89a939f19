"""What the backends' errors mean: another process is lost, or this one has failed by itself."""

import re

import torch
import torch.distributed as dist

from simclr_dist.distributed.watchdog.heartbeats import CUT_OFF, TIMED_OUT
from simclr_dist.errors import first_line

_LAST_ERROR = "Last error:"
_OF_NCCL = re.compile(rf"{_LAST_ERROR}\s*(\S.*)")
_OF_OTHERS = re.compile(r"ncclRemoteError|remote|\baborted\b|[Ss]ocket|[Cc]onnect|\bpeer\b")
_OF_THIS_PROCESS = re.compile(r"Cuda failure|CUDA error|no socket interface")
_CLOSED = re.compile(r"[Cc]onnection (closed|reset)|[Bb]roken pipe")


def how_it_failed(error: BaseException) -> str | None:
    """Whether a collective has timed out or was cut off, by what the backends raise; None: it is another error."""
    # An AcceleratorError ("CUDA error: the launch timed out") is of this process's GPU, whatever its words.
    if not isinstance(error, RuntimeError) or isinstance(error, torch.AcceleratorError):
        return None
    text = str(error)
    if isinstance(error, dist.DistBackendError) and not _is_of_others(text):
        return None
    if re.search(r"timed out|timeout", text, re.IGNORECASE):
        return TIMED_OUT
    return CUT_OFF if isinstance(error, dist.DistError) or _CLOSED.search(text) else None


def reason_of(error: BaseException) -> str:
    """An error's first line, and what NCCL says of itself further below."""
    of_nccl = _OF_NCCL.search(str(error))
    return f"{first_line(error)}; {_LAST_ERROR} {of_nccl[1]}" if of_nccl else first_line(error)


def _is_of_others(text: str) -> bool:
    of_nccl = _OF_NCCL.search(text)
    # NCCL explains its error codes, and what it says of a system call names sockets, whatever has failed.
    words = f"{'ncclRemoteError' if 'ncclRemoteError' in text else ''} {of_nccl[1]}" if of_nccl else text
    if _OF_THIS_PROCESS.search(words):
        return False
    return bool(_OF_OTHERS.search(words) or re.search(r"timed out|timeout", words, re.IGNORECASE))
