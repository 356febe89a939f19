"""How a run begins that finds no checkpoint in its folder: with random weights, or with those of ``recipe.initial``."""

from functools import cached_property

from simclr_dist.config import Recipe
from simclr_dist.config.initial import ALL
from simclr_dist.data.sources.identity import compare
from simclr_dist.distributed.agreement import all_or_none, decided_by_first
from simclr_dist.distributed.collectives import process_rank
from simclr_dist.errors import UserError
from simclr_dist.log import log
from simclr_dist.run.folder import RunFolder
from simclr_dist.training.step import TrainingStep
from simclr_dist.weights.initial import InitialState, put_into, read_initial


class Start:
    """Every process of a run makes one; without ``recipe.initial.weights`` it does nothing."""

    def __init__(self, recipe: Recipe, step: TrainingStep, folder: RunFolder) -> None:
        """``step`` has the weights of recipe.seed, and ``folder`` the images of the run."""
        self.recipe, self.step, self.folder = recipe, step, folder

    @cached_property
    def _found(self) -> InitialState:
        return read_initial(self.recipe)

    def name_weights(self, stored: str | None) -> str:
        """The digest of the weights, which becomes recipe.initial.sha256: as given, or of what is found there.

        A run that has begun needs them no more: where they cannot be read, its own digest counts.

        Args:
            stored: what the run's checkpoint says; None: there is no checkpoint.

        Raises:
            UserError: they cannot be read, or are others than the run began with.
        """
        initial = self.recipe.initial
        if not initial.weights or initial.sha256:
            return initial.sha256
        try:
            found = self._found.sha256
        except UserError as error:
            if not stored:
                raise
            log.info("the weights that the run began with are not compared: %s", error)
            return stored
        if stored and found != stored:
            raise UserError(
                f"recipe.initial.weights: {initial.weights} holds other weights (sha256 {found}) than this run began "
                f"with; set recipe.initial.sha256={stored} to resume without them, or choose another machine.run_dir"
            )
        return found

    def begin(self) -> int:
        """Put the weights into the method; how many steps of the recipe count as done. All processes call it.

        Raises:
            UserError: they cannot be read, are not those of recipe.initial.sha256, or do not fit; or the steps that
                count as done were those of other images or batches.
        """
        recipe, initial = self.recipe, self.recipe.initial
        if not initial.weights:
            return 0
        with all_or_none():
            if initial.steps_done >= self.step.schedule.total_steps:
                raise UserError(
                    f"recipe.initial.steps_done: {initial.steps_done} steps count as done, and recipe.epochs="
                    f"{recipe.epochs} are {self.step.schedule.total_steps}: none is left; raise recipe.epochs"
                )
            found = self._found
            if found.sha256 != initial.sha256:
                raise UserError(
                    f"recipe.initial.weights: {initial.weights} holds other weights (sha256 {found.sha256}) than "
                    "recipe.initial.sha256 names; give those, or remove recipe.initial.sha256 to begin with these"
                )
            put_into(self.step.method, self.step.optimizer, found, recipe)
        if initial.steps_done:
            decided_by_first(lambda: self._refuse_other_steps(found))
        if process_rank() == 0:
            self._tell(found)
        del self._found  # what it holds is in the method now
        return initial.steps_done

    def _refuse_other_steps(self, found: InitialState) -> None:
        """A number of steps is a place in the order of the images that those steps saw, in batches of that size."""
        recipe, folder = self.recipe, self.folder
        differing, remark = compare(found.images, folder.images, folder.source)
        if found.batch_images != recipe.global_batch_images:
            here = recipe.global_batch_images
            differing = f"recipe.global_batch_images is {found.batch_images} there and {here} here"
        if differing:
            raise UserError(
                f"recipe.initial.steps_done: the {recipe.initial.steps_done} steps of {recipe.initial.weights} do not "
                f"count as done here: {differing}; give those, or set recipe.initial.steps_done=0 to begin a schedule "
                "of its own with its weights"
            )
        if remark:
            log.info("%s: %s", recipe.data.path, remark)

    def _tell(self, found: InitialState) -> None:
        initial = self.recipe.initial
        what = "all" if initial.what == ALL else "the encoder"
        kept = f", the optimizer's state {initial.optimizer}" if initial.what == ALL else ""
        log.info("begins with %s of %s (%s)%s; sha256 %s", what, initial.weights, found.source, kept, found.sha256)
        for remark in found.remarks:
            log.warning("recipe.initial.weights: %s", remark)
