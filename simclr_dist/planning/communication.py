"""What a step sends and how long that takes, from the traced collectives and stated assumptions about the links."""

from dataclasses import dataclass

from simclr_dist.planning.traced_step import StepTrace
from simclr_dist.planning.tracker import Sent


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What a plan takes for granted about the machines. None of it is measured."""

    flops_per_second: float
    """Sustained rate of one GPU in this kind of step, not its peak."""
    bandwidth: float
    """Bytes per second between two nodes, in one direction, all network cards of a node together."""
    node_bandwidth: float
    """Bytes per second between two GPUs of a node, in one direction."""
    latency_seconds: float = 30e-6
    """Of every collective, whatever its size."""
    memory_margin: float = 0.1
    """Share of a GPU's memory left to the CUDA context, NCCL, cuDNN's workspaces and the allocator's fragments."""
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


def step_traffic(trace: StepTrace, images: int, processes: int, group: int, assumed: Assumptions) -> list[Traffic]:
    """The traffic of a step with ``images`` a process, from a traced step that may have had another number.

    Args:
        trace: a step with the same kind of batch norm.
        images: images of a process; what the loss sends grows with them, nothing else does.
        processes: how many there are.
        group: images of a batch-norm group.
        assumed: the links.
    """
    found = []
    for sent, calls in trace.collectives.items():
        payload: float = trace.payload[sent]
        members = processes
        if sent.purpose == "loss":
            payload *= images / trace.local_images
        elif sent.purpose == "batch norm" and sent.collective == "all_gather":
            members = min(processes, max(1, group // images))
        share = {"all_gather": members - 1.0, "all_reduce": 2 * (members - 1) / members}
        wire = payload * share.get(sent.collective, (members - 1) / members)
        rate = assumed.bandwidth if members > assumed.gpus_per_node else assumed.node_bandwidth
        seconds = (wire / rate + calls * assumed.latency_seconds) if members > 1 else 0.0
        found.append(Traffic(sent=sent, calls=calls, wire_bytes=wire, seconds=seconds))
    return found
