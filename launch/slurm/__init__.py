"""Jobs of a SLURM cluster: asked for, watched, ended."""
