"""What benchmarks/gpu.py measures: one module a section, whose ``rows`` gives the rows of its table one by one."""

from typing import NamedTuple


class Section(NamedTuple):
    """A module of this package, and how it is run."""

    name: str
    title: str
    seconds: float
    """After which it is stopped; what it has found stays."""
    timed: bool
    """Alone on the machine. The others, in which nothing is timed, run side by side."""


SECTIONS = (
    Section("verification", "the promises on CUDA", 150, timed=False),
    Section("methods", "every method", 180, timed=False),
    Section("cuda_tests", "tests marked cuda", 220, timed=False),
    Section("resume", "killed and resumed", 110, timed=False),
    Section("float16", "float16 with scaling", 40, timed=False),
    Section("step", "step of ResNet-50", 60, timed=True),
    Section("loss", "NT-Xent", 50, timed=True),
    Section("waits", "host waits of steps 5 to 7", 30, timed=True),
    Section("optimizer", "LARS on ResNet-50's tensors", 20, timed=True),
    Section("views", "views: device and CPU", 40, timed=True),
    Section("plan", "plan: predicted and measured", 80, timed=True),
    Section("compiled", "torch.compile and CUDA graphs", 120, timed=True),
    Section("large_batch", "4096 images a step to a label curve", 75, timed=True),
)
