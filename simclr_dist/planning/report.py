"""The plan as text and as the machine half of a config."""

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, fields

import yaml

from simclr_dist.config import Machine
from simclr_dist.planning.bottleneck import bottleneck, loader_demand, norm_seconds
from simclr_dist.planning.cards import FLOPS_A_VIEW
from simclr_dist.planning.communication import Assumptions
from simclr_dist.planning.plan import Plan, Row
from simclr_dist.run.kept import NONE
from simclr_dist.units import columns, show_bytes, show_rate, show_seconds


def report(plan: Plan) -> str:
    """The plan for people; every line is at most about 120 characters."""
    return "\n".join([*_head(plan), "", *_chosen(plan), "", *_table(plan)])


def rows_of_recipes(plans: Mapping[str, Plan | str]) -> str:
    """A line for each recipe (name -> its plan, or why there is none), all on the same GPUs."""
    made = {name: plan for name, plan in plans.items() if isinstance(plan, Plan)}
    timed = any(plan.assumed.flops_per_second for plan in made.values())
    times = ["step", "whole run"] if timed else []
    cells = [["recipe", "method", "epochs", "batch", "images each", "peak", *times, "fits"]]
    for name, plan in made.items():
        row, recipe = plan.suggested, plan.config.recipe
        times = [show_seconds(row.step_seconds), show_seconds(3600 * row.hours)] if row.hours else ["", ""]
        times = times if timed else []
        fits = f"yes, {row.variant}" if row.fits else f"no, not even {row.variant}"
        sizes = [str(recipe.epochs), str(recipe.global_batch_images), str(row.images), show_bytes(row.peak_bytes)]
        cells.append([name, recipe.method.name, *sizes, *times, fits])
    lines = ["predicted from traced steps, nothing here was measured; plan with one CONFIG says what is assumed"]
    lines += columns(cells, left=2) if made else []
    lines += [f"refused: {name}: {why}" for name, why in plans.items() if isinstance(why, str)]
    return "\n".join(lines)


def suggestion(plan: Plan) -> str:
    """The machine half that fits, as YAML that a recipe can be put beside."""
    variant, machine = plan.suggested.variant, plan.config.machine
    changed = asdict(machine)
    changed |= {"device": "cuda", "recompute": variant.recompute, "images_per_chunk": variant.images_per_chunk}
    changed["compile"] &= variant.recompute == "none"  # which torch.compile cannot trace
    defaults, always = Machine(), ("device", "precision", "images_per_chunk", "recompute")
    # run_dir was filled in from the file's name; a suggestion must not carry it into another file.
    kept = {
        entry.name: changed[entry.name]
        for entry in fields(Machine)
        if entry.name != "run_dir" and (entry.name in always or changed[entry.name] != getattr(defaults, entry.name))
    }
    row = plan.suggested
    head = f"# for {row.gpus} GPUs, predicted peak {show_bytes(row.peak_bytes)} of tensors a GPU\n"
    if not row.fits:
        head += "# PREDICTED NOT TO FIT\n"
    return head + yaml.safe_dump({"machine": kept}, sort_keys=False)


def _head(plan: Plan) -> list[str]:
    recipe, machine, assumed = plan.config.recipe, plan.config.machine, plan.assumed
    group = recipe.batch_norm_group_images or recipe.global_batch_images
    wide = f" {recipe.encoder.width:g}x" if recipe.encoder.is_resnet and recipe.encoder.width != 1 else ""
    sizes = " and ".join(str(size) for size in {view.side(recipe.data.image_size): 0 for view in recipe.views.values()})
    before = recipe.initial.steps_done
    kept, left = machine.keep_checkpoints, show_bytes(plan.gpu_memory_bytes - plan.usable_bytes)
    return [
        "predicted from a traced step and the assumptions below; nothing here was measured",
        f"recipe      {recipe.method.name}, {recipe.encoder.name}{wide} at {sizes} px, global batch "
        f"{recipe.global_batch_images}, batch norm over {group} images, {recipe.optimizer.name}, {machine.precision}",
        f"length      {plan.images} images, {plan.steps_per_epoch} steps an epoch, {recipe.epochs} epochs, "
        f"{plan.total_steps} steps{f', the first {before} of them done before' if before else ''}",
        f"checkpoint  {show_bytes(plan.checkpoint_bytes)}, {kept} kept: {show_bytes(kept * plan.checkpoint_bytes)}, "
        "and one more while it is written",
        *_kept(plan),
        *textwrap.wrap(
            f"{_speed(assumed)}; {show_rate(assumed.bandwidth)} between nodes of {assumed.gpus_per_node} GPUs, "
            f"{show_rate(assumed.node_bandwidth)} inside; {show_seconds(assumed.latency_seconds)} a collective; "
            f"nothing sent while computing; {left} of {_gpu(plan)} left to CUDA, NCCL, "
            f"cuDNN and the allocator: {show_bytes(plan.usable_bytes)} for tensors",
            118,
            initial_indent="assumed     ",
            subsequent_indent=" " * 12,
        ),
    ]


def _kept(plan: Plan) -> list[str]:
    """What stays beside the newest checkpoints."""
    machine, size = plan.config.machine, plan.checkpoint_bytes
    lines = []
    if every := machine.keep_every_steps:
        count = plan.total_steps // every - plan.config.recipe.initial.steps_done // every
        lines.append(f"milestones  {count}, one every {every} steps: {show_bytes(count * size)}, never removed")
    if machine.keep_best != NONE:
        lines.append(f"best        by {machine.keep_best}: {show_bytes(size)}, and as much while it is replaced")
    return lines


def _speed(assumed: Assumptions) -> str:
    if not assumed.flops_per_second:
        return f"no rate of a GPU, so no times ({assumed.rate_source})"
    views = assumed.flops_per_second / FLOPS_A_VIEW
    return (
        f"{views:,.0f} views/s of ResNet-50 at 224 px a GPU ({assumed.rate_source}), which is "
        f"{show_rate(assumed.flops_per_second, 'FLOP')}, by which other networks are scaled"
    )


def _gpu(plan: Plan) -> str:
    return show_bytes(plan.gpu_memory_bytes)


def _chosen(plan: Plan) -> list[str]:
    configured, row = plan.configured, plan.suggested
    lines = [f"{row.gpus} GPUs, {row.images} images each"]
    if not configured.fits:
        lines.append(f"  {configured.variant}: does not fit, {show_bytes(configured.peak_bytes)} at the peak")
    if configured.fits or row.variant != configured.variant:
        shown = configured if configured.fits else row
        verdict = "fits" if shown.fits else "does not fit"
        lines.append(f"  {shown.variant}: {verdict}, {show_bytes(shown.peak_bytes)} at the peak")
        row = shown
    at_once = row.variant.images_per_chunk or row.images
    trace = plan.memory.trace(at_once, row.variant.recompute)
    # What is too little to read stays in the sum.
    parts = sorted(((count, name) for name, count in trace.at_peak.items() if count > 1e6), reverse=True)
    shares = ", ".join(f"{name} {show_bytes(count)}" for count, name in parts)
    of_what = "a chunk: " if row.variant.images_per_chunk else ""
    lines += textwrap.wrap(of_what + shares, 116, initial_indent="  ", subsequent_indent="    ")
    lines.append(f"  (the loss alone takes {show_bytes(trace.loss_bytes)}, at its own peak)")
    room = ", ".join(
        f"{plan.memory.largest_that_fits(plan.usable_bytes, mode) or 'none'} with recompute={mode}"
        for mode in plan.memory.traced_modes
    )
    lines.append(f"  largest number of images a GPU at once: {room}")
    checked = plan.memory.check()
    if checked:
        worst = max(abs(distance) for _, _, distance in checked)
        lines.append(
            f"  (a line stands for the numbers of images not traced; where it was checked: off by {100 * worst:.1f} %)"
        )
    return [*lines, *_parts(row, plan.assumed)]


def _parts(row: Row, assumed: Assumptions) -> list[str]:
    cells = [["a step, a GPU", "calls", "sends", "time", ""]]
    for kind in row.traffic:
        what = f"{kind.sent.collective}: {kind.sent.label}"
        cells.append([what, str(kind.calls), show_bytes(kind.wire_bytes), show_seconds(kind.seconds), ""])
    norms = norm_seconds(row, assumed)
    of_norms = ["  of it batch norm, through memory", "", show_bytes(row.norm_bytes)]
    if row.compute_seconds is None:
        cells.append([*of_norms, "", ""])
    else:
        waits_for_loader = (row.loader_seconds or 0.0) >= row.step_seconds
        share = "" if waits_for_loader else f"communication {100 * row.communication_share:.0f} % of it"
        cells.append(["computation", "", "", show_seconds(row.compute_seconds), ""])
        cells.append([*of_norms, show_seconds(norms) if norms else "", ""])
        if row.loader_seconds:
            cells.append(["loader, beside it", "", "", show_seconds(row.loader_seconds), ""])
        cells.append(["step", "", "", show_seconds(row.step_seconds), share])
    lines = [*columns(cells), f"bottleneck: {bottleneck(row, assumed)}"]
    return [f"  {line}" for line in [*lines, *loader_demand(row, assumed)]]


def _table(plan: Plan) -> list[str]:
    timed = bool(plan.assumed.flops_per_second)
    times = ["step", "whole run", "bottleneck"] if timed else []
    cells = [["GPUs", "images each", "peak", "communication", *times, "fits"]]
    for row in plan.rows:
        links = f"{100 * row.communication_share:.0f} %" if timed else show_seconds(row.communication_seconds)
        times = [show_seconds(row.step_seconds), show_seconds(3600 * row.hours)] if timed else []
        times += [bottleneck(row, plan.assumed).partition(":")[0]] if timed else []
        fits = f"yes, {row.variant}" if row.fits else f"no, not even {row.variant}"
        cells.append([str(row.gpus), str(row.images), show_bytes(row.peak_bytes), links, *times, fits])
    lines = columns(cells, left=0)
    reasons: dict[str, list[int]] = {}
    for gpus, reason in plan.refused.items():
        # The reasons differ by the count alone; one of a kind is enough.
        reasons.setdefault(reason.partition(":")[0], []).append(gpus)
    for counts in reasons.values():
        lines.append(f"refused: {', '.join(map(str, counts))}; {plan.refused[counts[0]]}")
    return lines
