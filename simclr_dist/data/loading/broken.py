"""Broken images: named once each in run_dir/broken_images.txt, and the run stops when there are too many."""

from pathlib import Path

from simclr_dist.config import Recipe
from simclr_dist.data.loading.batches import ALL_BROKEN
from simclr_dist.data.sources.named import open_of_recipe
from simclr_dist.data.sources.shards.settings import shards_of_run
from simclr_dist.data.sources.whole import image_name, path_of
from simclr_dist.log import log
from simclr_dist.storage.reading import cannot_be_read
from simclr_dist.terminal import printable

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
    """Where the images of a run are that it met broken, in shards and videos too; opens them only if there are any.

    By their names: where images came to the folder or went since, the numbers are those of others.
    """
    listed = [line.partition("\t")[::2] for line in _listed(run_dir / _NAME).splitlines()]
    names_of = {int(number): _beginnings(reason) for number, reason in listed if number.isdecimal() and reason}
    if not names_of:
        return set()
    source = open_of_recipe(recipe, shards_of_run(run_dir))
    name_of = {sample: printable(image_name(source, sample)) for sample in names_of if sample < len(source)}
    found = {sample for sample, name in name_of.items() if name in names_of[sample]}
    if moved := set[str]().union(*(names_of[sample] for sample in names_of.keys() - found)):
        found |= {sample for sample in range(len(source)) if printable(image_name(source, sample)) in moved}
    return {path_of(source, sample) for sample in found} - {""}


def _beginnings(reason: str) -> set[str]:
    """What may be the name in "NAME: why": a name may hold a colon, too."""
    words = reason.split(": ")
    return {": ".join(words[:count]) for count in range(1, len(words))}


def _listed(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise cannot_be_read(path, error, "the list") from error
