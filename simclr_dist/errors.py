"""The exceptions that reach a user as a single line."""

import errno
import re


class UserError(ValueError):
    """Something that the user can put right: the message says what is wrong and what to do.

    The command line prints it as one line and exits with status 2; a traceback comes with ``--debug`` only.
    """

    def __init__(self, message: str) -> None:
        # torch's loader passes a worker's error on with the whole traceback in its message; the line ends it.
        super().__init__(message.rpartition(f"{__name__}.{type(self).__name__}: ")[2].strip())


class LostProcessError(UserError):
    """Another process is lost; the message names it. This process has done nothing wrong."""


class StuckError(UserError):
    """This process cannot leave a group that is over, and ends; the others may go on without it."""


class AgreedError(UserError):
    """A UserError that all processes raise together, so that one of them is enough to print it."""


class NotFiniteError(AgreedError):
    """Features of an image that can be read are not finite."""


def nearest(word: str, known: list[str]) -> str:
    """``" (did you mean 'x'?)"`` for the known word most like ``word``, or nothing when none is alike."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def code_in_file(error: BaseException) -> str:
    """The code that a file would run when read, as torch.load(weights_only=True) names it; "" where it names none.

    torch's own message goes on with the advice to read the file without that protection.
    """
    named = re.search(r"GLOBAL (\S+) (?:was not|whose)", str(error))
    return named[1] if named else ""


def is_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory, which torch says by errors of several classes."""
    is_torchs = type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error)
    return isinstance(error, MemoryError) or is_torchs


def is_of_full_disk(error: BaseException) -> bool:
    """Whether there was no room, on the disk or in what this user may have of it."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def in_one_line(message: str) -> str:
    """A message whose lines are joined; the blanks within a line may be those of a file's name."""
    return " ".join(line.strip() for line in message.splitlines() if line.strip())


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class when it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)
