"""The command ``simclr-dist``: every subcommand parses, builds, runs, closes."""
