"""The command ``simclr-dist``, which is ``python -m simclr_dist`` too (what torchrun starts)."""

import os
import sys


def main() -> None:
    """Run the command; Ctrl-C while it is still being imported ends it without a word."""
    try:
        _open_closed_streams()
        from simclr_dist.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


def _open_closed_streams() -> None:
    """Where a daemon was started with closed streams, the first files that it opens would stand in their place: a
    library's complaint, which goes to descriptor 2, would be written into one."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, number)  # the same number where those before it are open
            if nowhere != number:
                os.close(nowhere)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w"))


if __name__ == "__main__":
    main()
