"""``simclr-dist verify``: the project's promises, checked on the user's own machines and backend."""
