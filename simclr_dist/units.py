"""Sizes, rates and counts as people write them: 80GB, 80GiB, 200Gb/s (bits), 25GB/s (bytes), 60TFLOP/s, 1.28M."""

import re

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
    """``3.2 ms``, ``1.5 s``, with two or three digits."""
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _show(value: float, unit: str) -> str:
    prefixes = ["P", "T", "G", "M", "k", ""]
    while value >= 999.5 and len(prefixes) > 1:
        value /= 1000
        prefixes.pop()
    prefix = prefixes[-1]
    return f"{value:.0f} {prefix}{unit}" if value >= 99.5 or value == int(value) else f"{value:.3g} {prefix}{unit}"
