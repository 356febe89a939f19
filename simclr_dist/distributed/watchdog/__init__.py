"""Who of the processes is lost, and where it was."""
