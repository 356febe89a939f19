"""What a step sends and how long that takes, from the traced collectives and stated assumptions about the links."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simclr_dist.planning.line import Line
from simclr_dist.planning.traced_step import StepTrace
from simclr_dist.planning.tracker import Sent


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What a plan takes for granted about the machines. None of it is measured."""

    flops_per_second: float | None = None
    """Sustained rate of one GPU in this kind of step, not its peak. None: none is known, and there are no times."""
    rate_source: str = ""
    """Whose rate that is; where there is none, why."""
    memory_bandwidth: float | None = None
    """Bytes per second of a GPU's memory. None: not known."""
    core_images_per_second: float | None = None
    """Images that one core of the loader makes views of, as ``data bench`` prints it. None: not known."""
    cores: int | None = None
    """Cores of the loader for each GPU. None: as many as it needs."""
    bandwidth: float
    """Bytes per second between two nodes, in one direction, all network cards of a node together."""
    node_bandwidth: float
    """Bytes per second between two GPUs of a node, in one direction."""
    latency_seconds: float = 30e-6
    """Of every collective, whatever its size."""
    memory_margin: float = 0.1
    """Share of a GPU's memory left to the CUDA context, NCCL, cuDNN's workspaces and the allocator's fragments."""
    workspace_bytes: float = 1.5e9
    """Left at least: to the context, cuBLAS and cuDNN (a guess)."""
    communicator_bytes: float = 1.6e9
    """Left at least for each of NCCL's communicators, in addition (reported in NVIDIA/nccl#864; it grows with their
    channels)."""
    gpus_per_node: int = 8


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """One kind of collective in a step of one process."""

    sent: Sent
    calls: int
    wire_bytes: float
    """Bytes that the process sends (and receives) in rings, as NCCL's: (n-1) times its part to gather, 2 (n-1)/n of
    the whole to reduce."""
    seconds: float


# Bytes on the wire for each byte that a process puts in, by the number of processes.
_SHARES: dict[str, Callable[[int], float]] = {
    "all_gather": lambda members: members - 1,
    "all_reduce": lambda members: 2 * (members - 1) / members,
    "reduce_scatter": lambda members: (members - 1) / members,
    "all_to_all": lambda members: (members - 1) / members,
    "broadcast": lambda members: 1,
}


def step_traffic(traces: Sequence[StepTrace], images: int, assumed: Assumptions) -> list[Traffic]:
    """The traffic of a step with ``images`` a process.

    Args:
        traces: steps of the same global batch and kind of batch norm, of several processes each; what is sent lies on
            a line through theirs.
        images: images of a process.
        assumed: the links.
    """
    found = []
    for sent, calls in min(traces, key=lambda trace: abs(trace.local_images - images)).collectives.items():
        points = [(trace.local_images, trace.payload[sent]) for trace in traces if sent in trace.payload]
        payload = Line.fit(points)(images)
        members = max(1, sent.images // images)
        # A kind that is not known: at most everything to everyone.
        wire = payload * _SHARES.get(sent.collective, _SHARES["all_gather"])(members) if members > 1 else 0.0
        rate = assumed.bandwidth if members > assumed.gpus_per_node else assumed.node_bandwidth
        seconds = (wire / rate + calls * assumed.latency_seconds) if members > 1 else 0.0
        found.append(Traffic(sent=sent, calls=calls, wire_bytes=wire, seconds=seconds))
    return found
