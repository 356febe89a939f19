"""What ``simclr-dist methods`` prints: the methods beside each other, from their classes and the shipped recipes."""

import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import yaml

from simclr_dist.config import load_config
from simclr_dist.config.about import About
from simclr_dist.config.registry import METHODS, method_class, method_keys
from simclr_dist.configs import shipped
from simclr_dist.planning.traced_step import StepTrace, traced_step
from simclr_dist.terminal import typed
from simclr_dist.units import columns, show_bytes

IMAGES = 64
"""Of a step whose memory is compared, on one process."""
_COMPARED = "imagenet_resnet50_100"  # encoder, size of the images and precision
_DATA_SET = 1281167  # images, of which a bank has a row each


def table() -> str:
    """A line for each method of this project: its paper, what it needs, the number to reach and the recipe for it."""
    cells = [["method", "arXiv", "needs", "published", "recipe"]]
    marks = False
    for name in METHODS:
        about: About | None = _about(name)
        if not about:
            cells.append([name, "", ", ".join(needs(name)), "", ", ".join(recipes(name))])
            continue
        marks |= bool(about.published and about.published.from_memory)
        published = _published(about).replace("epochs", "ep.")  # a line has 120 columns
        cells.append([name, about.arxiv, ", ".join(needs(name)), published, recipe_of(name) or ""])
    notes = ["published: linear evaluation on ImageNet, ResNet-50, epochs; none of the recipes was run by this project"]
    if marks:
        notes.append("*: from memory, not read again in its source")
    notes.append("one of them, with its equation and its other recipes: simclr-dist methods NAME")
    return "\n".join([*columns(cells, left=len(cells[0])), "", *notes])


def memory_table(trace: Mapping[str, StepTrace]) -> str:
    """Peak and state of a step beside SimCLR's, of a trace for each method."""
    simclr = trace["simclr"]
    cells = [["method", "memory at the peak", "beside simclr", "kept between steps"]]
    for name, own in trace.items():
        beside = f"{own.peak_bytes / simclr.peak_bytes:.2f}x"
        cells.append([name, show_bytes(own.peak_bytes), beside, show_bytes(own.resting_bytes)])
    recipe = load_config(_COMPARED).recipe
    return "\n".join(
        [
            f"a step of {IMAGES} images on one GPU, predicted as plan does it: {recipe.encoder.name} at "
            f"{recipe.data.image_size} px, bfloat16, {recipe.optimizer.name}, the methods' defaults",
            *columns([[*line, ""] for line in cells]),
        ]
    )


def traced(name: str) -> StepTrace:
    """A step of a method with its default keys and views, as :func:`memory_table` compares them."""
    config = load_config(_COMPARED, [f"recipe.method.name={name}"])
    return traced_step(config.recipe, replace(config.machine, device="cuda"), IMAGES, 1, _DATA_SET)


def described(name: str) -> str:
    """A method for people: what it is, its equation, what it needs, its recipes, and what to type next.

    Raises:
        UserError: there is no such method.
    """
    about, own = _about(name), recipes(name)
    text = inspect.cleandoc(method_class(name).__doc__ or "")
    lines = [f"{name}: {about.title}, {about.paper} (arXiv {about.arxiv})" if about else name, ""]
    lines += [line for part in text.split("\n\n") for line in (*textwrap.wrap(" ".join(part.split()), 116), "")]
    if about:
        lines += [*(f"    {line}" for line in about.equation.splitlines()), ""]
    lines.append(f"needs      {', '.join(needs(name)) or 'two views of an image'}")
    if about and about.published:
        lines.append(f"published  {_published(about)} (linear evaluation on ImageNet, ResNet-50)")
    lines += [f"{'recipe' if number == 0 else '':10} {each}" for number, each in enumerate(own)]
    example = recipe_of(name) or (own[0] if own else "")
    override = () if example else (f"recipe.method.name={name}",)
    run = f"machine.run_dir=runs/{name.rpartition(':')[2].lower()}"
    commands = [
        ("keys", typed("config", "--explain", name)),
        ("as it is", typed("config", example or "digits_demo", *override)),
        ("memory", typed("plan", example or _COMPARED, *override, "--gpus", 8, "--card", "a100", "--images", "1.28M")),
        ("try it", typed("pretrain", *_tried(name, example), run)),
    ]
    return "\n".join([*lines, "", *(f"{what:10} {command}" for what, command in commands)])


def _tried(name: str, example: str) -> list[str]:
    """A small run of a method: on the demo's digits, or on the user's own where it needs masks, colour or time, which
    digits lack."""
    own, given = [f"recipe.method.name={name}"], method_class(name).needs
    if "time" in given:  # a sequence has no shape that fits all: the shipped source, numbered files
        return [*([example] if example else ["frames_resnet50_temporal", *own]), "recipe.data.path=FOLDER"]
    if "masks" in given:
        masks = ("recipe.data.source=folder_with_masks", "recipe.data.path=FOLDER")
        return [*([example] if example else ["digits_demo", *own]), *masks]
    if "color" in given:
        colored = ("recipe.data.source=folder", "recipe.data.path=FOLDER", "recipe.data.image_size=32")
        return ["digits_demo", *own, *colored]
    return ["digits_demo", *own, *fitted_to_digits(name)]


def needs(name: str) -> list[str]:
    """What a method takes beside an encoder, a head and two views of every image, in words."""
    found, about = method_class(name), _about(name)
    groups = found.views(method_keys(name)).values()
    count = sum(group.count for group in groups)
    views = [] if count == 2 else ["1 view" if count == 1 else f"{count} views"]
    return [*sorted(found.needs), *(about.keeps if about else ()), *views]


def recipes(name: str) -> list[str]:
    """The shipped recipes of a method, by name."""
    return [recipe for recipe, (method, _) in _shipped().items() if method == name]


def recipe_of(name: str) -> str | None:
    """The shipped recipe whose heading names the number that the method's class has, or where it has none (a method
    for maps, say) the shortest of the method's names; None: there is none."""
    about = _about(name)
    if not about:
        return None
    if not about.published:
        return min(recipes(name), key=len, default=None)
    number = f"{about.published.top1:g} %"
    return next((recipe for recipe in recipes(name) if number in _shipped()[recipe][1]), None)


def fitted_to_digits(name: str) -> list[str]:
    """Overrides that fit views with a size of their own to the digits of the demo."""
    views = method_class(name).views(method_keys(name))
    found = []
    for group, view in views.items():
        if view.size:
            found += [f"recipe.views.{group}.size=8", f"recipe.views.{group}.crop_area_min={view.crop_area_min:g}"]
    return found


@cache
def _shipped() -> dict[str, tuple[str, str]]:
    """Recipe -> its method and the lines before its keys."""
    found = {}
    for path in shipped():
        text = path.read_text(encoding="utf-8")
        found[path.stem] = (yaml.safe_load(text)["recipe"]["method"]["name"], text.partition("\nrecipe:")[0])
    return found


def _about(name: str) -> About | None:
    found: Any = method_class(name)
    about: About | None = found.ABOUT
    return about


def _published(about: About) -> str:
    if not (number := about.published):
        return ""
    return f"{number.top1:g} %, {number.epochs} epochs{' *' if number.from_memory else ''}"
