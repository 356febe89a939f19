"""What the keys of every method have in common."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class MethodKeys:
    """The keys below ``recipe.method``; each method adds its own (``simclr-dist config --explain NAME``)."""

    name: str = "simclr"
    """The pretraining method: one of this project by its name, or one of your own by package.module:Class
    (docs/methods.md). It decides which keys stand beside it, and which groups of views there are. Another name
    on the command line than in the file leaves out the file's keys of its method, and its health bands; those of the
    command line count, in any order."""
