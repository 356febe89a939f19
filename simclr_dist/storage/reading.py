"""What is said of a file that the system cannot read: nothing of its contents."""

from pathlib import Path

from simclr_dist.errors import UserError


def cannot_be_read(path: Path, error: OSError, what: str = "the file") -> UserError:
    """The error for a file or folder that may be intact: a server that does not answer, a permission, a full table."""
    return UserError(
        f"{path}: cannot be read: {error.strerror or error}; {what} may be intact and is left alone: start again when "
        "the storage is mended or the permission given"
    )
