"""What ``simclr-dist plan`` does with its options."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from simclr_dist.config import Config
from simclr_dist.errors import UserError
from simclr_dist.planning.cards import CARDS, FLOPS_A_VIEW, rate_of
from simclr_dist.planning.communication import Assumptions
from simclr_dist.progress_bar import ticking, ticking_on_terminal
from simclr_dist.storage.own_output import refuse_other_picture
from simclr_dist.terminal import say
from simclr_dist.units import parse_bandwidth, parse_bytes, parse_count, parse_flops

_GPUS_PER_NODE = 8


@dataclass(frozen=True, kw_only=True)
class Options:
    """Those of the command, as they are given."""

    gpus: int
    card: str | None
    gpu_memory: str | None
    nodes: int | None
    bandwidth: str
    node_bandwidth: str
    images: str | None
    rate: str | None
    core_rate: float | None
    cores: int | None
    suggest: bool
    out: Path | None


def plan_run(config: Config, options: Options) -> str:
    """The text to print; the picture is written to ``options.out``.

    Raises:
        UserError: an option cannot be read, another file stands where the picture is to be, the GPUs cannot compute the
            recipe, the data is not here and ``images`` is not given.
    """
    if options.out:
        refuse_other_picture(options.out)
    memory_bytes = _memory_bytes(options.card, options.gpu_memory)
    assumed = _assumptions(options, config.machine.precision)
    count, found = (parse_count(options.images, "--images"), "") if options.images else _images_here(config)
    # Only now what imports torch: a mistake in an option is answered at once.
    from simclr_dist.data.sources.summary import say_what_was_found
    from simclr_dist.planning.plan import make_plan
    from simclr_dist.planning.report import report, suggestion

    with ticking_on_terminal("tracing the step"):  # of a large encoder for a minute and more
        plan = make_plan(config, options.gpus, memory_bytes, count, assumed)
        text = report(plan)
        if options.suggest:
            text += f"\n\n{suggestion(plan).rstrip()}"
    if found:  # only now: a mistake is answered in one line
        say_what_was_found(found)
    if options.out:
        from simclr_dist.planning.picture import draw

        try:
            draw(plan, options.out)
        except UserError:
            say(text)  # it may have taken minutes
            raise
        text += f"\n{options.out}: memory and time against GPUs"
    return text


def plan_recipes(configs: Mapping[str, Config], options: Options) -> str:
    """A row for each of several recipes, on the same GPUs.

    Raises:
        UserError: an option cannot be read or is for one recipe alone, or the number of images is not given.
    """
    for option, value in (("--suggest", options.suggest), ("--out", options.out)):
        if value:
            raise UserError(f"{option}: is for one CONFIG, and {len(configs)} are given; leave it out")
    if not options.images:
        raise UserError(f"--images: give the number of images, such as 1.28M, for all {len(configs)} recipes")
    memory_bytes, count = _memory_bytes(options.card, options.gpu_memory), parse_count(options.images, "--images")
    given = [(name, config, _assumptions(options, config.machine.precision)) for name, config in configs.items()]
    from simclr_dist.planning.plan import Plan, make_plan
    from simclr_dist.planning.report import rows_of_recipes

    rows: dict[str, Plan | str] = {}
    for name, config, assumed in given:
        with ticking(f"tracing steps of {name}"):
            try:
                rows[name] = make_plan(config, options.gpus, memory_bytes, count, assumed, others=())
            except UserError as error:  # of this recipe: the others have their rows
                rows[name] = str(error)
    return rows_of_recipes(rows)


def refuse_too_large(config: Config, gpus: int, gpu_memory: str, images: int) -> None:
    """Raise a UserError when the run, as its machine half says, does not fit into the GPUs."""
    memory_bytes = parse_bytes(gpu_memory, "--gpu-memory")
    assumed = Assumptions(
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


def _rate(precision: str, card: str | None, given: str | None) -> tuple[float | None, str]:
    """(operations a second of a GPU, whose rate it is); None, and why there is none."""
    if given:
        number = given.removesuffix("views/s").strip()
        try:
            flops = float(number) * FLOPS_A_VIEW
        except ValueError:
            flops = parse_flops(given, "--rate")
        if not 0 < flops < 1e30:
            raise UserError(f"--rate: '{given}' is no rate; give views a second, such as 3100, or 60TFLOP/s")
        return flops, "as given"
    if not card:
        return None, "--card or --rate gives one"
    rate = rate_of(card, precision)
    if not rate:
        return None, f"none is published of {card} in {precision}; --rate gives one"
    return rate.flops_per_second, f"{card}: {rate.source}"


def _memory_bytes(card: str | None, given: str | None) -> int:
    if given:
        return parse_bytes(given, "--gpu-memory")
    if card:
        return CARDS[card].memory_bytes
    raise UserError(f"--gpu-memory: give a GPU's memory, such as 80GB, or --card: {', '.join(CARDS)}")


def _assumptions(options: Options, precision: str) -> Assumptions:
    """Of a recipe whose step is computed in ``precision``."""
    flops_per_second, source = _rate(precision, options.card, options.rate)
    return Assumptions(
        flops_per_second=flops_per_second,
        rate_source=source,
        memory_bandwidth=CARDS[options.card].memory_bandwidth if options.card else None,
        core_images_per_second=options.core_rate,
        cores=options.cores,
        bandwidth=parse_bandwidth(options.bandwidth, "--bandwidth"),
        node_bandwidth=parse_bandwidth(options.node_bandwidth, "--node-bandwidth"),
        gpus_per_node=_gpus_per_node(options.gpus, options.nodes),
    )


def _gpus_per_node(gpus: int, nodes: int | None) -> int:
    if nodes is None:
        return min(gpus, _GPUS_PER_NODE) if gpus > 1 else _GPUS_PER_NODE
    if gpus % nodes:
        raise UserError(f"--nodes: {gpus} GPUs cannot be shared equally by {nodes} nodes; give a divisor of {gpus}")
    return gpus // nodes


def _images_here(config: Config) -> tuple[int, str]:
    """How many there are, and what is said of them."""
    from simclr_dist.data.sources.named import open_for_pretraining
    from simclr_dist.data.sources.summary import summary

    try:
        source = open_for_pretraining(config)
    except UserError as error:
        raise UserError(f"{error}; or give the number of images with --images") from error
    return len(source), summary(source, config.recipe.data.source)
