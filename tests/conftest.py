"""The order of the files: those that take longest begin first, so that both processes of a whole suite end together."""

import pytest

_LONGEST = ("test_quick_start.py", "test_slurm.py", "test_launch.py", "test_exactness.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))
