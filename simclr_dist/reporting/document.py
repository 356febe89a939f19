"""A page that needs nothing but itself: its head, its sections, and the file that it is written to."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from simclr_dist import __version__
from simclr_dist.errors import UserError
from simclr_dist.reporting.markup import Html, tag
from simclr_dist.storage.atomic import write_atomically
from simclr_dist.storage.own_output import refuse_unless
from simclr_dist.storage.temporary import remove_leftovers

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class Section(NamedTuple):
    """A heading and what stands below it."""

    key: str
    title: str
    content: Html


def document(kind: str, title: str, header: Sequence[Html], sections: Sequence[Section]) -> Html:
    """The page of the command ``kind``: a heading with what stands below it, links to the sections, the sections."""
    style, script = (Html((files(__package__) / name).read_text("utf-8")) for name in ("page.css", "page.js"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        Html(f'{_mark(kind)} {__version__}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", f"{title} - simclr_dist {kind}"),
        tag("style", style),
    )
    links = tag("nav", [tag("a", section.title, href=f"#{section.key}") for section in sections])
    body = tag(
        "body",
        tag("header", tag("h1", title), list(header), links),
        tag("main", [tag("section", tag("h2", s.title), s.content, id=s.key) for s in sections]),
        tag("footer", tag("p", f"Made by simclr-dist {__version__} {kind}.", class_="soft")),
        tag("div", id="tip"),
        tag("script", script),
    )
    return Html(f"<!doctype html>\n{tag('html', head, body, lang='en')}\n")


def write_page(out: Path, kind: str, content: Html) -> None:
    """Write the page; only an earlier one of its kind may be replaced.

    Raises:
        UserError: another file stands there, or the folder cannot be written.
    """
    check_replaceable(out, kind)
    remove_leftovers(out.parent)
    try:
        write_atomically(out, content.encode(errors="replace"))
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written: {error.strerror}; choose another name") from error


def check_replaceable(out: Path, kind: str) -> None:
    """Refuse to replace what is no page of the command ``kind``.

    Raises:
        UserError: a folder or another file stands there.
    """
    if not out.exists():
        if not out.parent.is_dir():
            raise UserError(f"--out: {out.parent} is not a folder; make it first")
        return
    is_own = not out.is_dir() and _mark(kind).encode() in out.read_bytes()[:2000]
    what = "report" if kind == "report" else f"page of {kind}"
    refuse_unless(is_own, out, "--out", f"no {what} of simclr-dist")


def _mark(kind: str) -> str:
    return f'<meta name="generator" content="simclr_dist {kind}'
