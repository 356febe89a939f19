"""A config file with a comment a line, checked to load as it was meant before it stands."""

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from simclr_dist.config import Config, load_config
from simclr_dist.config.loading import fields_of
from simclr_dist.errors import UserError
from simclr_dist.starting.choices import Choice


def as_yaml(choices: Sequence[Choice], heading: Sequence[str] = ()) -> str:
    """The keys nested, each with its reason behind it; keys below one another must follow each other."""
    lines = [f"# {line}" for line in heading]
    before: list[str] = []
    for choice in choices:
        *path, last = choice.key.split(".")
        for depth, part in enumerate(path):
            if before[: depth + 1] != path[: depth + 1]:
                lines.append(f"{'  ' * depth}{part}:")
                before = path[: depth + 1]
        before = path
        lines.append(f"{'  ' * len(path)}{last}: {_value(choice.value)}  # {choice.why}")
    return "\n".join(lines) + "\n"


def loaded(text: str, choices: Sequence[Choice]) -> Config:
    """The config of the text.

    Raises:
        UserError: a value does not come back as it was chosen, such as a path with bytes that YAML has no form for.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "written.yaml"
        file.write_bytes(os.fsencode(text))
        config = load_config(str(file))
    values = {key.replace("views.global.", "views."): value for key, value, _ in fields_of(config)}
    for choice in choices:
        if values[choice.key] != choice.value:
            raise UserError(
                f"{choice.key}: {choice.value!r} has no form in YAML; rename it, or make a link to it and give that"
            )
    return config


def _value(value: Any) -> str:
    if not isinstance(value, str):
        return repr(value).lower()
    # What OmegaConf would take for an interpolation is a name here.
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    style = None if escaped.isprintable() else '"'  # escapes instead of lines
    return (
        yaml.safe_dump(escaped, default_style=style, width=10**9, allow_unicode=True)
        .removesuffix("\n...\n")
        .removesuffix("\n")
    )
