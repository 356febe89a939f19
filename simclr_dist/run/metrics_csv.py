"""metrics.jsonl as CSV (RFC 4180, but that lines end with a newline alone)."""

import csv
import io
from collections.abc import Mapping, Sequence

FIRST = ("step", "epoch", "loss")


def as_csv(records: Sequence[Mapping[str, float | None]]) -> str:
    """A header and a line for each record, in their order.

    The columns are :data:`FIRST`, then all others by name, so that they do not depend on which steps measured what. A
    number that is missing or null is an empty field; all others are written with all their digits.
    """
    names = {name for record in records for name in record}
    text = io.StringIO()
    table = csv.DictWriter(text, [*FIRST, *sorted(names - set(FIRST))], restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(records)
    return text.getvalue()
