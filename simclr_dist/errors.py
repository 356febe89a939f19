"""The exceptions that reach a user as a single line."""


class UserError(ValueError):
    """Something that the user can put right: the message says what is wrong and what to do.

    The command line prints it as one line and exits with status 2; a traceback comes with ``--debug`` only.
    """

    def __init__(self, message: str) -> None:
        # torch's loader passes a worker's error on with the whole traceback in its message; the line ends it.
        super().__init__(message.rpartition(f"{__name__}.{type(self).__name__}: ")[2].strip())


class AgreedError(UserError):
    """A UserError that all processes raise together, so that one of them is enough to print it."""


def nearest(word: str, known: list[str]) -> str:
    """``" (did you mean 'x'?)"`` for the known word most like ``word``, or nothing when none is alike."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class when it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)
