"""What was asked of ``simclr-dist evaluate``: parsed and checked, without importing torch."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from simclr_dist.config import load_config
from simclr_dist.config.recipe import SOURCES, Data
from simclr_dist.errors import UserError, nearest

# Each method, with the options that have a meaning for it.
_COMMON = ("checkpoint", "on", "device", "batch_at_once", "workers", "cache", "seed", "processes")
_SGD = ("epochs", "batch", "learning_rate", "optimizer", "precision")
METHODS = {
    "label-curve": ("checkpoint", "on", "labels", "splits"),
    "knn": (*_COMMON, "k", "temperature"),
    "probe": (*_COMMON, *_SGD, "solver", "augment", "grid"),
    "lowshot": (*_COMMON, "labels", "splits"),
    "finetune": (*_COMMON, *_SGD, "shares", "splits", "from_layer", "with_baseline"),
    "baseline": (*_COMMON, *_SGD, "shares", "splits", "from_layer"),
    "label-free": (*_COMMON, "views"),
    "segment": (
        "checkpoint",
        "on",
        "device",
        "workers",
        "seed",
        "processes",
        "images",
        "steps",
        "seeds",
        "batch",
        "learning_rate",
        "precision",
        "with_baseline",
        "output_stride",
        "short_side",
    ),
}


def chosen_method(words: Sequence[str]) -> tuple[str, list[str]]:
    """The method (label-curve when none is named) and the KEY=VALUE words."""
    methods = [word for word in words if "=" not in word]
    if len(methods) > 1:
        raise UserError(f"evaluate: one method at a time, not {', '.join(methods)}")
    if methods and methods[0] not in METHODS:
        raise UserError(
            f"evaluate: no method '{methods[0]}'{nearest(methods[0], list(METHODS))}; there are {', '.join(METHODS)}"
        )
    return methods[0] if methods else "label-curve", [word for word in words if "=" in word]


def refuse_foreign(method: str, given: Sequence[str], solver: str) -> None:
    """Raise a UserError for an option that was given but has no meaning for the method."""
    for name in given:
        option = "--cache/--no-cache" if name == "cache" else f"--{name.replace('_', '-')}"
        if name not in METHODS[method]:
            owners = ", ".join(each for each, names in METHODS.items() if name in names)
            raise UserError(f"{option}: has no meaning for {method}; it belongs to {owners}")
        if method == "probe" and name in (*_SGD, "augment", "grid") and solver == "lbfgs":
            raise UserError(f"{option}: has no meaning for --solver lbfgs; take --solver sgd")
        if name == "optimizer" and "grid" in given:
            raise UserError("--optimizer: has no meaning for --grid, whose probes are trained by SGD; leave it out")


def whole_numbers(option: str, text: str) -> list[int]:
    """Numbers above 0, separated by commas, in ascending order."""
    try:
        counts = sorted({int(count) for count in text.split(",")})
        if counts[0] < 1:
            raise ValueError
    except ValueError as error:
        raise UserError(f"{option}: '{text}' is not a list of whole numbers above 0, such as 1,10,50") from error
    return counts


def numbers_of_images(text: str) -> list[int | None]:
    """Numbers above 0 and ``all`` (None), separated by commas."""
    words = [word.strip() for word in text.split(",")]
    numbers = [word for word in words if word != "all"]
    try:
        counts = whole_numbers("--images", ",".join(numbers)) if numbers else []
    except UserError as error:
        raise UserError(
            f"--images: '{text}' is not a list of whole numbers above 0 and all, such as 16,64,all"
        ) from error
    return [*counts, *([None] if len(numbers) < len(words) else [])]


def percentages(text: str) -> list[float]:
    """Shares in 0..1 of percentages separated by commas, in ascending order."""
    try:
        shares = sorted({float(share) / 100 for share in text.split(",")})
        if not all(0 < share <= 1 for share in shares):
            raise ValueError
    except ValueError as error:
        raise UserError(f"--shares: '{text}' is not a list of percentages, such as 1,10,100") from error
    return shares


def chosen_data(own: Data, on: str | None, overrides: list[str], folder: str = "folder") -> Data:
    """The images to evaluate on: a config's, or those of a source (package.module:function too) or folder at the run's
    image size; ``folder`` is the source that a folder is."""
    if on is None:
        start = asdict(own)
    elif on in SOURCES or (":" in on and not Path(on).exists()):
        start = {**asdict(own), "source": on, "path": ""}
    elif Path(on).is_dir():
        start = {**asdict(own), "source": folder, "path": on}
    else:
        return load_config(on, overrides).recipe.data
    try:
        return load_config("digits_demo", overrides, {"recipe": {"data": start}}).recipe.data
    except UserError as error:  # its name means nothing to who evaluates another run
        raise UserError(str(error).partition(".yaml: ")[2] or str(error)) from error
