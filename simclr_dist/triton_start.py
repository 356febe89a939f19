"""Whether Triton's programs run on this machine."""

from functools import cache
from importlib.util import find_spec

from simclr_dist.errors import first_line
from simclr_dist.log import log


@cache
def starts_programs() -> bool:
    """Whether Triton is there and can start programs; asked once, as the answer is a line of the log.

    Up to version 3.6 it needs a C compiler and Python.h for that.
    """
    if find_spec("triton") is None:
        return False
    try:
        from triton.runtime import driver

        driver.active.get_current_target()
    except Exception as error:  # of any kind: what Triton calls is the machine's
        log.warning("torch's own operations are taken, as Triton cannot start programs here: %s", first_line(error))
        return False
    log.info("Triton compiles the programs of this run, once on a machine; it takes some seconds")
    return True
