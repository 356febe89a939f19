"""The shipped recipes, one YAML each; installed as ``simclr_dist.configs``."""

from pathlib import Path


def shipped() -> list[Path]:
    """The files of the shipped recipes, by name."""
    return sorted(Path(__file__).parent.glob("*.yaml"))
