"""What is published of a method, said in its class: paper, equation, what it keeps, the number to reach."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Linear evaluation of a ResNet-50 on ImageNet after some epochs, as its authors or the named source give it."""

    top1: float
    """In percent."""
    epochs: int
    from_memory: bool = False
    """Written down as remembered, and not read again in its source."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What ``simclr-dist methods`` tells of a method beside what its class says anyway (views, needs, docstring)."""

    title: str
    """As its authors write it: MoCo v2."""
    paper: str
    """Its authors and year: He et al. 2020."""
    arxiv: str
    """Its number there: 1911.05722."""
    equation: str
    """The loss, in a few lines of plain text of at most 116 columns; docs/methods.md has the same lines."""
    keeps: tuple[str, ...] = ()
    """What it has beside encoder and heads, in words: second encoder, queue, bank, centre, prototypes."""
    published: Published | None = None
    """None: nobody has published one that is known here."""
