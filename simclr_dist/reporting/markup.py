"""HTML and SVG from nested calls: every text is escaped unless it is markup already."""

import json
from collections.abc import Callable
from html import escape
from typing import Any

from simclr_dist.reporting import Missing


class Html(str):
    """Markup that stands as it is."""


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element. ``class_`` means class, ``data_x`` means data-x; attributes that are None are left out.

    Children are texts (escaped), numbers, markup, or lists of these.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in ("img", "meta", "br"):
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{joined(*children)}</{name}>")


def joined(*children: Any) -> Html:
    """Children one after the other."""
    return Html("".join(_child(child) for child in children if child is not None))


def folded(title: str, content: Html) -> Html:
    """What is opened by a click on its title."""
    return tag("details", tag("summary", title), content)


def or_sentence(make: Callable[[], Html]) -> Html:
    """What ``make`` gives, or the sentence that says why it is missing."""
    try:
        return make()
    except Missing as missing:
        return sentence(missing)


def sentence(missing: Missing) -> Html:
    """The paragraph that stands where a part is missing."""
    return tag("p", str(missing), class_="missing")


def number(value: Any, digits: int = 4) -> str:
    """A value for people: few digits, thousands apart; anything else as text."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10000 else str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
    return str(value)


def _child(child: Any) -> str:
    if isinstance(child, Html):
        return child
    if isinstance(child, (list, tuple)):
        return joined(*child)
    return escape(_text(child))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    if isinstance(value, (dict, list)):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return str(value)
