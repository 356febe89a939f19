"""Starting the processes of a run: on this machine, or as a job of a SLURM cluster."""
