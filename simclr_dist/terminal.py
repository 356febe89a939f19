"""The one way of text to a terminal, which obeys: names, descriptions and messages may be anybody's.

A file's description can hold the escapes that clear a screen, retitle a window or write a command into the next line.
"""

import errno
import os
import shlex
import stat
import sys
import unicodedata

import click

# Control characters, halves of characters (bytes of a name that are no UTF-8), and separators of lines; then those that
# turn the direction of what follows, so that a name reads as another one.
_UNSEEN = ("Cc", "Cs", "Zl", "Zp")
_TURNING = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


def printable(text: str, keep: str = "") -> str:
    """``text`` as it may be shown: what a terminal would obey is spelt, as ``\\x1b``; every letter stays what it is.

    Args:
        text: anybody's.
        keep: control characters that are meant, such as the ends of lines of a table.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character in keep or not _is_obeyed(character) else _spelt(character) for character in text
    )


def say(text: object, *, err: bool = False, nl: bool = True, keep: str = "\n\t") -> bool:
    """Print to the terminal, or with ``err`` to its stream of errors; lines and tabs (``keep``) stay.

    Returns:
        Whether it could be written. Not where the reader has gone (``| head``, an ssh session that was lost while a
        line was on its way): what the command does is no less done for it, so that is no error.
    """
    stream = sys.stderr if err else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    shown = printable(str(text), keep=keep)
    try:
        click.echo(shown.encode(encoding, "backslashreplace").decode(encoding), err=err, nl=nl)
    except OSError as error:
        if not (error.errno == errno.EPIPE or (error.errno == errno.EIO and terminal_is_lost(stream.fileno()))):
            raise
        to_nowhere(stream.fileno())  # what is in its buffer, too: at the end it would be an error again
        return False
    return True


def terminal_is_lost(descriptor: int) -> bool:
    """Whether the descriptor leads to a terminal that has hung up: every write there is an error."""
    return stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor)


def to_nowhere(descriptor: int) -> None:
    """What is written to the descriptor from now on is lost, and no error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def errors_on_terminal() -> bool:
    """Whether somebody may watch what ``say(err=True)`` prints: not where that stream is a file, or closed (None)."""
    return sys.stderr is not None and sys.stderr.isatty()


def typed(*words: object) -> str:
    """``simclr-dist WORDS`` as it can be copied into a shell: a name may hold what a shell would run."""
    return shlex.join(["simclr-dist", *map(str, words)])


def _is_obeyed(character: str) -> bool:
    return unicodedata.category(character) in _UNSEEN or character in _TURNING


def _spelt(character: str) -> str:
    return character.encode("unicode_escape").decode()
