"""``simclr-dist export`` and ``simclr-dist import``: weights for other programs, and from them."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from simclr_dist.cli.options import PathType, with_debug
from simclr_dist.config.fields import MOST_PIXELS
from simclr_dist.errors import UserError
from simclr_dist.storage.yaml_text import AmbiguousNumberError, load_yaml
from simclr_dist.terminal import say

if TYPE_CHECKING:
    from simclr_dist.weights.export import Exported

_FORMATS = {"torchvision": ".pth", "timm": ".timm.safetensors", "onnx": ".onnx", "safetensors": ".safetensors"}
_path = PathType()


@click.command("export")
@click.argument("run", metavar="RUN", type=_path)
@click.option("--to", type=click.Choice(list(_FORMATS)), required=True, help="What will read the file.")
@click.option("--out", type=_path, help="The file.  [default: encoder_STEP in the run's folder]")
@click.option("--with-head", is_flag=True, help="The projection head too.")
@with_debug
def export_weights(run: Path, to: str, out: Path | None, with_head: bool) -> None:
    """Write the encoder of RUN (a run's folder, a checkpoint, an export or an imported file) for another program.

    The outputs of the written file are compared with ours, in that program, before it stands under its name. Beside it
    FILE.json has the normalisation, the image size and the lines that load it.
    """
    from simclr_dist.weights.export import export
    from simclr_dist.weights.read import load_encoder

    loaded = load_encoder(run)
    out = out or (run if run.is_dir() else run.parent) / default_name(loaded.steps_done, with_head, to)
    say(_summary(export(loaded, to, out, with_head=with_head)))


@click.command("import")
@click.argument("file", metavar="FILE", type=_path)
@click.argument("out", metavar="OUT", type=_path)
@click.option("--mean", metavar="R,G,B", help="Subtracted from pixels in 0..1.  [default: as the project's]")
@click.option("--std", metavar="R,G,B", help="Divides them.  [default: as the project's]")
@click.option(
    "--image-size", type=click.IntRange(8, MOST_PIXELS), help="Side in pixels.  [default: 224; 32 with a 3x3 stem]"
)
@click.option("--stem-padding", type=click.IntRange(0, 3), help="Of the first convolution.  [default: the project's]")
@click.option("--prefix", help="Of the names of the network that is meant, when FILE has several.")
@click.option("--encoder", metavar="timm/NAME", help="The model of timm that FILE is of.  [default: config.json's]")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="That this model is made with.")
@with_debug
def import_weights(
    file: Path, out: Path, mean: str | None, std: str | None, options: tuple[str, ...], **hints: Any
) -> None:
    """Write the encoder of FILE, another project's, to OUT (safetensors).

    Known are torchvision's, timm's, solo-learn's, lightly's and VISSL's ResNets, and Google's SimCLR v1 and v2 as
    simclr-converter and SimCLRv2-Pytorch convert them; of timm every other model, too, by its name. Only tensors are
    read: no code in FILE runs.
    """
    hints |= {"mean": _three("--mean", mean), "std": _three("--std", std), "options": _options(options)}
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: is written as safetensors; give a name that ends with .safetensors")
    from simclr_dist.weights.export import export
    from simclr_dist.weights.read import load_encoder

    loaded = load_encoder(file, **hints)
    assumptions = "".join(f"\n  assumed: {line}" for line in loaded.assumed)
    what = loaded.architecture or loaded.recipe.encoder.name
    say(f"{loaded.source}: {what}{assumptions}\n{_summary(export(loaded, 'safetensors', out))}")


def default_name(steps_done: int | None, with_head: bool, to: str) -> str:
    """``encoder_000000660_with_head.onnx``, say."""
    step = "" if steps_done is None else f"_{steps_done:09d}"
    return f"encoder{step}{'_with_head' if with_head else ''}{_FORMATS[to]}"


def _summary(done: "Exported") -> str:
    differ = f"differ from ours by {done.max_difference:.1g} at most" if done.max_difference else "are equal to ours"
    return (
        f"{done.path}: outputs in {done.compared_with} {differ}\n"
        f"{done.sidecar}: normalisation, image size, how to load it"
    )


def _options(given: tuple[str, ...]) -> dict[str, Any]:
    found = {}
    for each in given:
        key, equals, text = each.partition("=")
        try:
            found[key] = load_yaml(text, key=f"--option: {key}")
        except AmbiguousNumberError as error:
            raise UserError(str(error)) from error
        except yaml.YAMLError:
            equals = ""
        if not equals:
            raise UserError(f"--option: '{each}' is not KEY=VALUE, such as img_size=32")
    return found


def _three(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        numbers = [float(number) for number in text.split(",")]
        is_wrong = option == "--std" and min(numbers) <= 0
        if len(numbers) != 3 or is_wrong or not all(map(math.isfinite, numbers)):
            raise ValueError
    except ValueError as error:
        above = " above 0" if option == "--std" else ""
        raise UserError(f"{option}: '{text}' is not three numbers{above}, such as 0.5,0.5,0.5") from error
    return numbers
