"""``simclr-dist preview``: a picture of views before anything is trained."""

from pathlib import Path

import click

from simclr_dist.cli.options import PathType, with_config, with_debug
from simclr_dist.config import load_config
from simclr_dist.errors import UserError, first_line
from simclr_dist.progress_bar import said_when_slow
from simclr_dist.terminal import say


@click.command()
@with_config
@click.option("--out", type=PathType(dir_okay=False), default="views.png", show_default=True)
@click.option("--images", type=click.IntRange(1, 10_000), default=8, show_default=True, help="Rows of the picture.")
@with_debug
def preview(config: str, overrides: tuple[str, ...], out: Path, images: int) -> None:
    """Draw images and their views, as the run will see them, into a PNG."""
    loaded = load_config(config, overrides)
    from PIL import Image, PngImagePlugin

    from simclr_dist.config.registry import method_class
    from simclr_dist.data.preview import contact_sheet
    from simclr_dist.data.sources.base import BrokenImageError
    from simclr_dist.data.sources.named import open_for_pretraining
    from simclr_dist.data.sources.summary import say_what_was_found, summary
    from simclr_dist.data.views.groups import views_in_words
    from simclr_dist.storage.atomic import write_atomically
    from simclr_dist.storage.own_output import SOFTWARE, refuse_other_picture

    refuse_other_picture(out)
    source = open_for_pretraining(loaded)
    rows = min(images, len(source))
    try:
        with said_when_slow(f"{out}: drawing {rows:,} of the images"):
            # As a run, which draws others in the place of broken images.
            sheet = contact_sheet(
                source, loaded.recipe, rows, renderer=loaded.machine.renderer,
                passed_over=lambda reason: say(f"not drawn, broken: {reason}", err=True),
            )  # fmt: skip
        text = PngImagePlugin.PngInfo()
        text.add_text("Software", SOFTWARE)
        if (kind := Image.registered_extensions().get(out.suffix.lower())) is None:
            raise ValueError(f"unknown file extension: {out.suffix}")
        picture = Image.fromarray(sheet.permute(1, 2, 0).numpy())
        # Other formats than PNG take no notice of the text.
        write_atomically(out, lambda file: picture.save(file, kind, pnginfo=text))
    except BrokenImageError as error:
        raise UserError(f"cannot preview a broken image: {error}") from error
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: Pillow knows no format of that name
        raise UserError(
            f"--out: cannot write {out}: {first_line(error)}; give a PNG in a folder that is there"
        ) from error
    say_what_was_found(summary(source, loaded.recipe.data.source))
    if rows < images:
        say(f"--images: {images:,} are asked for and there are {rows:,}, so these are drawn", err=True)
    method = method_class(loaded.recipe.method.name)
    masks = ", masks beside them" if "masks" in method.needs else ""
    shown = method.PICTURES or f"its views{masks}"
    if any(group.frame != "own" for group in loaded.recipe.views.values()):
        shown = "its views with its partners', and frames that are far"
    say(f"{out}: each row an image and, in each of three epochs, {shown}; views: {views_in_words(loaded.recipe)}")
