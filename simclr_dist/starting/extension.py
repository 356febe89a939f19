"""A run made longer: the config of a new one that begins where it stands, with a schedule to the new end."""

from dataclasses import dataclass, replace
from pathlib import Path

from simclr_dist.config import Config, Machine, Recipe, load_config, to_yaml
from simclr_dist.config.initial import ALL, Initial
from simclr_dist.config.loading import recipe_from_dict
from simclr_dist.data.loading.order import build_order
from simclr_dist.errors import UserError
from simclr_dist.optim.schedule import Schedule, build_schedule
from simclr_dist.run import checkpoint
from simclr_dist.run.same_recipe import is_begun
from simclr_dist.storage.atomic import write_atomically
from simclr_dist.storage.paths import in_utf8
from simclr_dist.weights.initial import read_initial
from simclr_dist.weights.saved import SavedState, saved_state


@dataclass(frozen=True, kw_only=True)
class Extension:
    """The longer run, and what it begins with."""

    config: Config
    saved: SavedState
    before: Recipe
    """Of the run that is extended."""
    images: int
    """Of the data set."""

    def text(self) -> str:
        """For people: what the new run is."""
        recipe, done = self.config.recipe, self.saved.steps_done
        old, new = self._schedule(self.before), self._schedule(recipe)
        kept = {
            "kept": "kept, the momentum of the run before",
            "fresh": "fresh, no momentum at the first step",
        }[recipe.initial.optimizer]
        return (
            f"{self.saved.source} of {old.total_steps} ({self.before.epochs} epochs), on to {recipe.epochs} epochs: "
            f"steps {done + 1} to {new.total_steps}\n"
            f"another trajectory: not what {recipe.epochs} epochs from the start would have been, whose learning rates "
            "are others from the first step on\n"
            f"learning rate: {old(max(0, done - 1)):.4g} at its last step, {new(done):.4g} at the next one, then the "
            f"schedule of {recipe.epochs} epochs to their end\n"
            f"weights, queues, teachers: all of step {done}; optimizer state: {kept}"
        )

    def _schedule(self, recipe: Recipe) -> Schedule:
        return build_schedule(recipe, build_order(recipe, self.images))


def extended(run: Path, epochs: int, run_dir: Path | None = None, optimizer: str = "kept") -> Extension:
    """The extension of a run, or of one of its checkpoints, to ``epochs`` in all.

    Args:
        run: its folder (the newest checkpoint) or a checkpoint.
        epochs: of the longer run, those done included.
        run_dir: of the longer run; None: that of the run with ``_EPOCHS_epochs`` behind it.
        optimizer: its state is ``kept`` or begins ``fresh``.

    Raises:
        UserError: there is no such run, it has as many epochs, the new folder holds a run, or has no name by itself.
    """
    if not (run.is_dir() or checkpoint.is_checkpoint(run)):
        raise UserError(f"{run}: is no run folder and no checkpoint of one; give the machine.run_dir of a run")
    saved = saved_state(run)
    before = recipe_from_dict(saved.state["recipe"])
    folder = run if run.is_dir() else run.absolute().parent.parent
    folder = folder if folder.name not in ("", "..") else folder.resolve()
    if epochs <= before.epochs:
        raise UserError(
            f"--epochs: {saved.source} is of a run of {before.epochs} epochs, and {epochs} are no more; give the new "
            "number of all epochs, or start the run again with its own config to resume it"
        )
    if run_dir is None and not folder.resolve().name:
        raise UserError(f"--run-dir: {run} stands in no run folder, whose name the new one would have; give a folder")
    run_dir = run_dir or folder.with_name(f"{folder.resolve().name}_{epochs}_epochs")
    if is_begun(run_dir):
        raise UserError(f"--run-dir: {run_dir} holds a run already; give another folder")
    initial = Initial(weights=str(saved.path), what=ALL, optimizer=optimizer, steps_done=saved.steps_done)
    recipe = replace(before, epochs=epochs, initial=initial)
    initial.sha256 = read_initial(recipe).sha256
    machine = replace(_machine(folder), run_dir=str(run_dir), stop_after_steps=0)
    config = Config(recipe=recipe, machine=machine)  # bands of health were measured for another number of epochs
    return Extension(config=config, saved=saved, before=before, images=int(saved.state["images"]["count"]))


def write_extension(extension: Extension) -> Path:
    """Write its config beside its run folder; the file.

    Raises:
        UserError: another config is there, or it cannot be written.
    """
    run_dir = Path(extension.config.machine.run_dir)
    path = run_dir.with_name(f"{run_dir.name}.yaml")
    head = "".join(f"# {line}\n" for line in extension.text().splitlines())
    content = (in_utf8(head) + to_yaml(extension.config)).encode()
    try:
        if path.exists() and path.read_bytes() != content:
            raise UserError(f"{path}: is there already and is not overwritten; give another --run-dir, or remove it")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def _machine(folder: Path) -> Machine:
    """As the run had it last; the defaults where that cannot be read."""
    try:
        return load_config(str(folder / "config.yaml")).machine
    except UserError:
        return Machine()
