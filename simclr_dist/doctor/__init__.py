"""``simclr-dist doctor``: what a run would find here. Works without torch, which is imported where it is there."""
