"""Commands that the project gives to be copied (documents, headings of recipes, ``methods NAME``) are ones it takes.

They are read by click and not carried out: an unknown command, option or choice fails, and so does what is missing.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from simclr_dist.cli.main import command
from simclr_dist.config import load_config
from simclr_dist.config.registry import METHODS
from simclr_dist.configs import shipped
from simclr_dist.planning.methods import described

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RECIPES = sorted(shipped())
PLACEHOLDERS = {"N": "2", "H": "2", "STEP": "2", "STEPS": "2"}
"""What stands for a number that an option checks."""


FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", flags=re.DOTALL | re.MULTILINE)


def blocks(text: str) -> Iterator[str]:
    """Lines of a shell's fenced blocks and of what it printed, with those that go on in the next joined."""
    for language, block in FENCED.findall(text):
        if language in ("", "sh", "bash", "text"):
            yield from re.sub(r"\\\n", " ", block).splitlines()


def spans(text: str) -> Iterator[str]:
    """What stands in backticks in the prose; a line may end in it."""
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCED.sub("", text)))


def words_of(line: str) -> list[str] | None:
    """The words behind ``simclr-dist`` up to a comment, a pipe or the like; None where it stands for no command."""
    _, found, rest = line.partition("simclr-dist ")
    if not found or line.lstrip().startswith("#"):
        return None
    rest = re.sub(r"\[([^\[\]]*)\]", r"\1", re.split(r" #| \d?[|<>&]|;| \.\.\.$", rest)[0])  # [OPTIONAL]
    return [PLACEHOLDERS.get(word, word) for word in shlex.split(rest)]


def is_mention(words: list[str]) -> bool:
    """Whether words name a command and nothing more, as prose does."""
    found: click.Command | None = command
    for word in words:
        found = found.get_command(click.Context(found), word) if isinstance(found, click.Group) else None
        if found is None:
            return False
    return True


def complaint(words: list[str]) -> str:
    """What the command line has against the words; empty when nothing."""
    # With its settings: click keeps each command's help option as the first context made it.
    found: click.Command | None = command
    context = click.Context(command, info_name="simclr-dist", **command.context_settings)
    try:
        while isinstance(found, click.Group):
            name, found, words = found.resolve_command(context, words)
            assert found is not None
            context = click.Context(found, info_name=name, parent=context)
        found.make_context(context.info_name, words, parent=context.parent)
    except click.exceptions.Exit:  # --help, --version
        return ""
    except click.UsageError as error:
        return error.format_message()
    return ""


def complaints(lines: Iterator[str], *, prose: bool) -> list[tuple[str, str]]:
    """Each command of ``lines`` that is refused, with why; ``prose``: its mentions of a command are no commands."""
    commands = [words for line in lines if (words := words_of(line)) and not (prose and is_mention(words))]
    return [(shlex.join(words), why) for words in commands if (why := complaint(words))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_of_a_document_is_taken_by_the_command_line(document):
    text = document.read_text(encoding="utf-8")
    assert complaints(blocks(text), prose=False) + complaints(spans(text), prose=True) == []


def heading(recipe: Path) -> str:
    """The lines before a recipe's keys, as one."""
    lines = recipe.read_text(encoding="utf-8").partition("\nrecipe:")[0].splitlines()
    return " ".join(line.removeprefix("#").strip() for line in lines)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_commands_and_keys_of_a_recipes_heading_are_taken_and_need_no_data_set(recipe):
    text = heading(recipe)
    assert complaints(spans(text), prose=True) == []
    for words in filter(None, map(words_of, spans(text))):
        assert words[1] == recipe.stem, "another recipe's command"
        assert words[0] != "plan" or {"--images", "--card"} <= {*words}, "without them it looks for the images"
    keys = re.findall(r"(?<![\w.-])[a-z_]+(?:\.[a-z_]+)*=\w+", text)
    load_config(recipe.stem, [key.replace("=N", "=1") for key in keys])


@pytest.mark.parametrize("name", METHODS)
def test_every_command_that_a_method_gives_is_taken_by_the_command_line(name):
    lines = described(name).splitlines()
    assert len([line for line in lines if "simclr-dist " in line]) == 4
    assert complaints(iter(lines), prose=False) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("simclr-dist plan my.yaml --images 100K", "--gpus"),
        ("simclr-dist plan my.yaml --gpus 2 --card a101", "a101"),
        ("simclr-dist pretrain my.yaml --proceses 2", "--proceses"),
        ("srun -n 2 simclr-dist evaluate  # the rest is a comment", "RUN_OR_WEIGHTS"),
        ("simclr-dist data chek FILE", "chek"),
        ("simclr-dist evalute RUN", "evalute"),
    ],
)
def test_a_command_that_would_be_refused_is_found(line, why):
    ((_, found),) = complaints(iter([line]), prose=False)
    assert why in found


def test_what_prose_says_of_a_command_is_none_and_a_block_goes_on_over_its_lines():
    assert complaints(spans("`simclr-dist plan` and `simclr-dist\nplan --card a100`"), prose=True) != []
    assert complaints(spans("`simclr-dist plan`, `simclr-dist data write`"), prose=True) == []
    assert list(blocks("```sh\nsimclr-dist plan my.yaml \\\n  --gpus 2\n```\n")) == [
        "simclr-dist plan my.yaml    --gpus 2"
    ]
