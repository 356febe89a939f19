"""Starting the processes of a run; installed as ``simclr_dist.launch``."""
