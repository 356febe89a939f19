"""Sizes, rates and counts as people write them: 80GB, 80GiB, 200Gb/s (bits), 25GB/s (bytes), 60TFLOP/s, 1.28M."""

import re
from collections.abc import Sequence

from simclr_dist.errors import UserError

_DECIMAL = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_NUMBER = r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*"


def parse_bytes(text: str, option: str) -> int:
    """Bytes of ``80GB`` (10^9), ``80GiB`` (2^30), ``512MB`` ...; ``option`` is named in the error.

    Raises:
        UserError: not a size above 0 with a known unit.
    """
    found = re.fullmatch(_NUMBER + r"([kKMGT]|[KMGT]i)?B", text)
    return int(_value(found, text, option, "a size in bytes, such as 80GB or 80GiB"))


def parse_bandwidth(text: str, option: str) -> float:
    """Bytes per second of ``200Gb/s`` (bits) or ``25GB/s`` (bytes).

    Raises:
        UserError: not a rate above 0 with a known unit.
    """
    found = re.fullmatch(_NUMBER + r"([kKMGT]|[KMGT]i)?([bB])(?:/s|ps)", text)
    value = _value(found, text, option, "a rate, such as 200Gb/s (bits) or 25GB/s (bytes)")
    return value / 8 if found and found[3] == "b" else value


def parse_flops(text: str, option: str) -> float:
    """Floating-point operations per second of ``60T``, ``60TFLOP/s``, ``60TFLOPS`` or ``6e13``.

    Raises:
        UserError: not a rate above 0 with a known unit.
    """
    found = re.fullmatch(_NUMBER + r"([kKMGTP])?(?:FLOPS|FLOP/s)?", text)
    return _value(found, text, option, "operations per second, such as 60T or 60TFLOP/s")


def parse_count(text: str, option: str) -> int:
    """A whole number, ``1281167``, ``1_281_167``, ``1.28M`` or ``50k``.

    Raises:
        UserError: not a whole number above 0.
    """
    found = re.fullmatch(_NUMBER + r"([kKMG])?", text.replace("_", ""))
    value = _value(found, text, option, "a number of images, such as 1281167 or 1.28M")
    if value != int(value):
        raise UserError(f"{option}: '{text}' is not a whole number")
    return int(value)


def _value(found: re.Match[str] | None, text: str, option: str, expected: str) -> float:
    value = float(found[1]) * {**_DECIMAL, **_BINARY}[found[2] or ""] if found else 0.0
    # Rounded so that 1.28M is the whole number that it looks like.
    value = round(value, 6)
    if not 0 < value < 1e30:
        raise UserError(f"{option}: '{text}' is not {expected}")
    return value


def show_bytes(count: float) -> str:
    """``12.3 GB`` (10^9), with three digits."""
    return _show(count, "B")


def show_rate(per_second: float, unit: str = "B") -> str:
    """``25 GB/s``, with three digits."""
    return f"{_show(per_second, unit)}/s"


def show_seconds(seconds: float) -> str:
    """``25 µs``, ``3.2 ms``, ``1.5 s``, ``12 min``, ``5.25 h``, ``3.1 days``, with two or three digits."""
    scales = (("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0), ("days", 86400.0))
    # The largest unit of which there is one, as it will be shown: 999.7 ms is 1 s. Minutes and above from two on.
    unit, scale = next(
        (entry for entry in reversed(scales) if seconds / entry[1] >= (1.995 if entry[1] >= 60 else 0.9995)), scales[0]
    )
    value = seconds / scale
    return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.3g} {unit}"


def columns(lines: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Cells of a table, two blanks apart at least; the first ``left`` columns and the last begin at their left."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    last = len(widths) - 1
    return [
        "  ".join(
            cell.ljust(width) if number < left or number == last else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _show(value: float, unit: str) -> str:
    prefixes = ["P", "T", "G", "M", "k", ""]
    while value >= 999.5 and len(prefixes) > 1:
        value /= 1000
        prefixes.pop()
    prefix = prefixes[-1]
    return f"{value:.0f} {prefix}{unit}" if value >= 99.5 or value == int(value) else f"{value:.3g} {prefix}{unit}"
