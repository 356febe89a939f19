"""What ``simclr-dist plan`` does with its options."""

from pathlib import Path

from simclr_dist.config import Config, Machine
from simclr_dist.errors import UserError
from simclr_dist.planning.communication import Assumptions
from simclr_dist.units import parse_bandwidth, parse_bytes, parse_count, parse_flops

# Guesses for a ResNet on a data-centre GPU: far below its peak, as batch norm and ReLU wait for memory.
_FLOPS_PER_SECOND = {"bfloat16": 30e12, "float16": 30e12, "tf32": 15e12, "float32": 10e12, "float64": 5e12}
_GPUS_PER_NODE = 8


def plan_run(
    config: Config,
    *,
    gpus: int,
    gpu_memory: str,
    nodes: int | None,
    bandwidth: str,
    node_bandwidth: str,
    images: str | None,
    flops_per_second: str | None,
    suggest: bool,
    out: Path | None,
) -> str:
    """The text to print; the picture is written to ``out``.

    Raises:
        UserError: an option cannot be read, the GPUs cannot compute the recipe, the data is not here and ``images`` is
            not given.
    """
    memory_bytes = parse_bytes(gpu_memory, "--gpu-memory")
    assumed = Assumptions(
        flops_per_second=_rate(config.machine, flops_per_second),
        bandwidth=parse_bandwidth(bandwidth, "--bandwidth"),
        node_bandwidth=parse_bandwidth(node_bandwidth, "--node-bandwidth"),
        gpus_per_node=_gpus_per_node(gpus, nodes),
    )
    count = parse_count(images, "--images") if images else _images_here(config)
    # Only now what imports torch: a mistake in an option is answered at once.
    from simclr_dist.planning.plan import make_plan
    from simclr_dist.planning.report import report, suggestion

    plan = make_plan(config, gpus, memory_bytes, count, assumed)
    text = report(plan)
    if suggest:
        text += f"\n\n{suggestion(plan).rstrip()}"
    if out:
        from simclr_dist.planning.picture import draw

        draw(plan, out)
        text += f"\n{out}: memory and time against GPUs"
    return text


def refuse_too_large(config: Config, gpus: int, gpu_memory: str, images: int) -> None:
    """Raise a UserError when the run, as its machine half says, does not fit into the GPUs."""
    memory_bytes = parse_bytes(gpu_memory, "--gpu-memory")
    assumed = Assumptions(
        flops_per_second=_rate(config.machine, None),
        bandwidth=parse_bandwidth("200Gb/s", "--bandwidth"),
        node_bandwidth=parse_bandwidth("200GB/s", "--node-bandwidth"),
        gpus_per_node=_gpus_per_node(gpus, None),
    )
    from simclr_dist.planning.plan import make_plan

    row = make_plan(config, gpus, memory_bytes, images, assumed, others=()).configured
    if not row.fits:
        raise UserError(
            f"--gpu-memory: a process would need {row.peak_bytes / 1e9:.1f} GB and a GPU has {gpu_memory}; more GPUs, "
            "or what this prints: simclr-dist plan CONFIG --gpus N --gpu-memory SIZE --suggest"
        )


def _rate(machine: Machine, given: str | None) -> float:
    return parse_flops(given, "--flops-per-second") if given else _FLOPS_PER_SECOND[machine.precision]


def _gpus_per_node(gpus: int, nodes: int | None) -> int:
    if nodes is None:
        return min(gpus, _GPUS_PER_NODE) if gpus > 1 else _GPUS_PER_NODE
    if gpus % nodes:
        raise UserError(f"--nodes: {gpus} GPUs cannot be shared equally by {nodes} nodes; give a divisor of {gpus}")
    return gpus // nodes


def _images_here(config: Config) -> int:
    from simclr_dist.data.sources.named import open_for_pretraining
    from simclr_dist.data.sources.summary import say_what_was_found, summary

    try:
        source = open_for_pretraining(config.recipe)
    except UserError as error:
        raise UserError(f"{error}; or give the number of images with --images") from error
    say_what_was_found(summary(source, config.recipe.data.source))
    return len(source)
