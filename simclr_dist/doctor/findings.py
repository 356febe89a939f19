"""What the doctor finds, and how it is shown."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    area: str
    what: str
    found: str
    mark: str = OK
    """``ok``; ``note``: a run works, with what ``cure`` says; ``problem``: it would stop a run."""
    cure: str = ""


def table(findings: Sequence[Finding]) -> str:
    """The findings for people, grouped by area."""
    lines: list[str] = []
    width = max(len(each.what) for each in findings)
    for area in dict.fromkeys(each.area for each in findings):
        lines += ["", area]
        for each in (each for each in findings if each.area == area):
            mark = each.mark.upper() if each.mark == PROBLEM else each.mark
            lines.append(f"  {mark:<8} {each.what:<{width}}  {each.found}")
            lines += textwrap.wrap(each.cure, 110 - width, initial_indent=" " * (width + 13) + "-> ",
                                   subsequent_indent=" " * (width + 16))  # fmt: skip
    counts = {mark: sum(each.mark == mark for each in findings) for mark in (NOTE, PROBLEM)}
    return "\n".join([*lines[1:], "", f"{counts[PROBLEM]} problems, {counts[NOTE]} notes"])


def joined(of_hosts: Sequence[tuple[str, Sequence[Finding]]]) -> list[Finding]:
    """The findings of the first host, and those of the others that differ or are not ``ok``."""
    (_, first), *others = of_hosts
    found = list(first)
    seen = {(each.area, each.what): each for each in first}
    for host, findings in others:
        for each in findings:
            known = seen.get((each.area, each.what))
            if each.area == "versions" and known and known.found != each.found:
                cure = f"{known.found} on the first host: give all hosts the same installation"
                found.append(replace(each, what=f"{each.what} on {host}", mark=NOTE, cure=cure))
            elif each.mark != OK or known is None:
                found.append(replace(each, what=f"{each.what} on {host}"))
    return found
