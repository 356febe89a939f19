"""The one exception that reaches a user as a single line."""


class UserError(ValueError):
    """Something that the user can put right: the message says what is wrong and what to do.

    The command line prints it as one line and exits with status 2; a traceback comes with ``--debug`` only.
    """


def nearest(word: str, known: list[str]) -> str:
    """``" (did you mean 'x'?)"`` for the known word most like ``word``, or nothing when none is alike."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
