"""``python -m simclr_dist`` is the command ``simclr-dist`` (what torchrun starts)."""

from simclr_dist.cli.main import main

if __name__ == "__main__":
    main()
