"""The process group and the few collectives that the project uses."""

import os

# Read when torch is imported, which the command does later: of a process that is gone torch would print a page of its
# C++ stack as a warning, from any thread that asks the store, beside our line.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
