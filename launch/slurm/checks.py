"""All that can be known of runs before their job waits in the queue."""

from collections.abc import Sequence
from pathlib import Path

from simclr_dist.config import Config
from simclr_dist.config.machine import GO_ON
from simclr_dist.errors import UserError
from simclr_dist.launch.slurm import records, scheduler
from simclr_dist.launch.slurm.resources import Resources
from simclr_dist.log import log
from simclr_dist.terminal import typed


def check(configs: Sequence[Config], wanted: Resources, *, data: bool = True) -> None:
    """All that can be known before the job waits in the queue.

    Args:
        configs: the runs.
        wanted: what will be asked of the cluster.
        data: whether to open the images; nodes may see what this machine does not.

    Raises:
        UserError: these processes cannot compute a recipe, a run is under way already or its folder holds another
            recipe's, the images cannot be opened, its initial weights are not there, or a run does not fit into the
            GPUs' memory.
    """
    from simclr_dist.data.sources.named import open_for_pretraining
    from simclr_dist.data.sources.summary import say_what_was_found, summary
    from simclr_dist.run.checkpoint import by_age
    from simclr_dist.run.same_recipe import refuse_folder_of_other
    from simclr_dist.training.preflight import check_machine

    for config in configs:
        check_machine(config, wanted.processes)
        refuse_folder_of_other(Path(config.machine.run_dir), config.recipe)
        refuse_running(config, wanted.processes)
        weights = config.recipe.initial.weights
        if data and weights and not Path(weights).exists() and not by_age(Path(config.machine.run_dir) / "checkpoints"):
            raise UserError(f"recipe.initial.weights: {weights}: no such file or run folder")
    opened = {_images_of(config): config for config in configs}
    counts, found = {}, []
    for key, config in opened.items() if data else ():
        source = open_for_pretraining(config)
        found.append(summary(source, config.recipe.data.source))
        counts[key] = len(source)
    if wanted.gpu_memory and counts:
        from simclr_dist.planning.answer import refuse_too_large

        for config in configs:
            refuse_too_large(config, wanted.processes, wanted.gpu_memory, counts[_images_of(config)])
    if found:
        say_what_was_found(*found)


def _images_of(config: Config) -> tuple[str, ...]:
    """What decides whether the images can be opened, and how many they are."""
    return config.recipe.data.source, config.recipe.data.path, config.recipe.method.name


def refuse_running(config: Config, processes: int) -> None:
    """Raise a UserError when a job of this run waits or runs, and has not lost as many processes as are to come."""
    from simclr_dist.distributed.joining import lost_places

    run_dir, lost = Path(config.machine.run_dir), 0
    for job in scheduler.jobs(records.own_jobs(run_dir)):
        if job.lives and config.machine.on_lost_process == GO_ON:
            lost = lost_places(run_dir)
        if job.lives and processes <= lost:
            log.warning("job %s has lost %d processes: the new ones take their places", job.id, lost)
        elif job.lives:
            of_lost = f", and goes on without {lost} processes: give --nodes for so many" if lost else ""
            raise UserError(
                f"{run_dir}: job {job.id} is at it already ({job.description()}){of_lost}; see it with "
                f"{typed('status', run_dir)}, end it with {typed('cancel', run_dir)}"
            )
