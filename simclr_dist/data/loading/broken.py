"""Broken images: named once each in run_dir/broken_images.txt, and the run stops when there are too many."""

from pathlib import Path

from simclr_dist.config import Recipe
from simclr_dist.data.loading.batches import ALL_BROKEN
from simclr_dist.data.sources.named import open_of_recipe
from simclr_dist.data.sources.shards.settings import shards_of_run
from simclr_dist.data.sources.whole import path_of
from simclr_dist.log import log
from simclr_dist.storage.reading import cannot_be_read

_NAME = "broken_images.txt"


class BrokenImages:
    """The broken images that a run has met, over all its processes and restarts."""

    def __init__(self, run_dir: Path, images: int, max_share: float) -> None:
        """Go on with what the run folder says.

        Raises:
            UserError: it cannot be read.
        """
        self.path, self.images, self.max_share = run_dir / _NAME, images, max_share
        text = _listed(self.path)
        # A full disk, or a kill, may have left a line half written, with half of a number: its image is met again.
        *lines, rest = text.split("\n")
        self._line_is_cut = bool(rest)
        numbers = (line.partition("\t")[0] for line in lines if "\t" in line)
        # Not ALL_BROKEN: it may be mended since, and is met again if not.
        self.met = {int(number) for number in numbers if number.isdecimal()}

    def note(self, broken: list[tuple[int, str]], *, write: bool) -> None:
        """Count images of all processes, given as (sample id, name and reason); with ``write`` report the new ones."""
        for sample, reason in broken:
            if sample in self.met:
                continue
            self.met.add(sample)
            if write:
                log.warning("broken image, another is drawn in its place: %s", reason)
                try:
                    with self.path.open("a", encoding="utf-8") as file:
                        file.write("\n" * self._line_is_cut + f"{sample}\t{reason}\n")
                    self._line_is_cut = False
                except OSError as error:  # counted all the same, and met again after a restart
                    self._line_is_cut = True
                    log.warning("%s cannot be written: %s", self.path, error.strerror)

    @property
    def count(self) -> int:
        return len(self.met - {ALL_BROKEN})

    def too_many(self) -> str | None:
        """What to tell the user when the run must stop, else None."""
        if self.count > self.max_share * self.images:
            return (
                f"{self.count} of {self.images} images are broken, more than machine.max_broken_image_share "
                f"({self.max_share:g}); they are listed in {self.path}: raise the share to go on without them, or "
                "bring them back as they were (with other images in their place it is another run) and delete the "
                "list: all that stand in it are counted"
            )
        if ALL_BROKEN in self.met:
            return (
                f"an image is broken, and so is every one that was drawn in its place; {self.count} of {self.images} "
                f"are broken so far, listed in {self.path}: bring them back as they were, or make another run without "
                "them"
            )
        return None

    def tell_count(self) -> None:
        """Say at the end of a run how many there were, if any."""
        if self.count:
            log.warning(
                "%d of %d images were broken, and others drawn in their place: %s", self.count, self.images, self.path
            )


def broken_files(run_dir: Path, recipe: Recipe) -> set[str]:
    """Where the images of a run are that it met broken, in shards and videos too; opens them only if there are any."""
    if not _listed(run_dir / _NAME):
        return set()
    source = open_of_recipe(recipe, shards_of_run(run_dir))
    met = BrokenImages(run_dir, len(source), 1.0).met
    return {path_of(source, sample) for sample in met if 0 <= sample < len(source)} - {""}


def _listed(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise cannot_be_read(path, error, "the list") from error
