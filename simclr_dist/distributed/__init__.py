"""The process group and the few collectives that the project uses."""
