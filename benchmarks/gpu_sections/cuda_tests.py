"""The tests marked ``cuda``, in the files that say so.

On a CPU they are skipped, also those that a pretended GPU serves: the suite runs these.
"""

import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from gpu_sections.here import Here, Row

_TESTS = Path(__file__).parents[2] / "tests"


class _Outcomes:
    """A plugin of pytest that counts."""

    def __init__(self) -> None:
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        self.failures: list[str] = []

    def pytest_runtest_logreport(self, report) -> None:  # type: ignore[no-untyped-def]
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.failed:
            self.failures.append(report.nodeid)


def rows(here: Here) -> Iterator[Row]:
    try:
        import pytest
    except ModuleNotFoundError:
        yield Row("tests", "pytest is not installed here")
        return
    marked = [path for path in sorted(_TESTS.rglob("test_*.py")) if re.search(r"mark\.cuda\b", path.read_text())]
    if not marked:
        yield Row("tests", "none is marked")
        return
    outcomes = _Outcomes()
    chosen = here.size("cuda", "cuda and not cuda(pretended=True)")
    options = ["-vv", "-m", chosen, "-p", "no:cacheprovider", f"--rootdir={_TESTS.parent}"]
    options.append(f"--basetemp={here.folder / 'tests'}")
    if here.on_gpu and find_spec("xdist"):  # most of their time is Triton's compiling
        options += ["-n", str(max(1, min(12, len(os.sched_getaffinity(0)) - 4)))]
    status = pytest.main([*options, *map(str, marked)], plugins=[outcomes])
    counts = outcomes.counts
    figure = ", ".join([f"{count} {name}" for name, count in counts.items()] + outcomes.failures[:5])
    holds = here.bound(status == 0 and not counts["skipped"])
    yield Row(f"{len(marked)} files", figure, {**counts}, "none failed or skipped", holds)
