"""Python and the packages: which are there, and what a missing one costs."""

import importlib
import importlib.util
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from simclr_dist import __version__
from simclr_dist.doctor.findings import NOTE, PROBLEM, Finding

_AREA = "versions"
_IMPORTED = ("numpy", "torch", "torchvision", "numba")
"""Compiled packages that may be there and yet not load."""
OLDEST = {"python": (3, 11), "torch": (2, 11)}
"""As setup.py; a checkout may run uninstalled, and then pip has not looked."""
_NEEDED = {
    "pillow": "PIL", "simplejpeg": "simplejpeg", "scikit-learn": "sklearn", "omegaconf": "omegaconf",
    "tensorboard": "tensorboard", "matplotlib": "matplotlib", "safetensors": "safetensors",
    "tqdm": "tqdm",
}  # fmt: skip
_OPTIONAL = {
    "submitit": "simclr-dist submit and resume need it: pip install 'simclr_dist[slurm]'",
    "onnx": "simclr-dist export --to onnx needs it: pip install 'simclr_dist[export]'",
    "onnxruntime": "simclr-dist export --to onnx needs it: pip install 'simclr_dist[export]'",
    "onnxscript": "simclr-dist export --to onnx needs it: pip install 'simclr_dist[export]'",
    "timm": "recipe.encoder.name=timm/... and simclr-dist export --to timm need it: pip install 'simclr_dist[timm]'",
    "pyarrow": "simclr-dist features --out FILE.parquet needs it: pip install 'simclr_dist[parquet]'",
    "wandb": "machine.tracking.wandb and simclr-dist track need it: pip install 'simclr_dist[wandb]'",
    "mlflow": "machine.tracking.mlflow and simclr-dist track need it: pip install 'simclr_dist[mlflow]'",
    "av": "recipe.data.source=videos needs it: pip install 'simclr_dist[video]'",
    "fsspec": "shards on a server need it (webdataset by URL): pip install 'simclr_dist[shards]'",
    "aiohttp": "shards on a server need it for http: pip install 'simclr_dist[shards]'",
    "ffcv": "recipe.data.source=ffcv needs it: docs/data.md; .beton files are read and written without it",
}
_INSTALLED_AS = {"mlflow": "mlflow-skinny"}
"""Module -> another package that brings it: the extra's own."""


def findings() -> Iterator[Finding]:
    """Python, this package, what it needs and what it may use."""
    where = f"{platform.python_version()} at {sys.executable}"
    yield Finding(_AREA, "python", where, *too_old("python", platform.python_version()))
    yield Finding(_AREA, "simclr_dist", __version__)
    for name in _IMPORTED:
        yield _imported(name)
    for name, module in _NEEDED.items():
        if is_there(module):
            yield Finding(_AREA, name, _version(name))
        else:
            yield Finding(_AREA, name, "not installed", PROBLEM, f"no run starts without it: pip install {name}")
    for name, cost in _OPTIONAL.items():
        if is_there(name):
            yield Finding(_AREA, name, _version(name))
        else:
            yield Finding(_AREA, name, "not installed", NOTE, cost)


def too_old(name: str, found: str) -> tuple[str, str] | tuple[()]:
    """The mark and the cure of a version that is older than the oldest tested one; nothing of another."""
    oldest, parts = OLDEST.get(name, (0,)), tuple(map(int, re.findall(r"\d+", found)))
    if not parts or parts >= oldest:
        return ()
    return PROBLEM, f"install {name} {'.'.join(map(str, oldest))} or newer"


def is_there(module: str) -> bool:
    """Whether a module can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def loads(module: str) -> bool:
    """Whether a module can be imported."""
    try:
        importlib.import_module(module)
    except Exception:  # a package of another build raises whatever its loader meets
        return False
    return True


def _imported(name: str) -> Finding:
    try:
        importlib.import_module(name)
    except Exception as error:
        why = f"cannot be imported: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        missing = isinstance(error, ModuleNotFoundError) and not is_there(name)
        return Finding(
            _AREA, name, "not installed" if missing else why, PROBLEM,
            f"no run starts without it: pip install {name}, of a build for this Python and these GPUs",
        )  # fmt: skip
    return Finding(_AREA, name, _version(name), *too_old(name, _version(name)))


def _version(name: str) -> str:
    for package in (name, _INSTALLED_AS.get(name, name)):
        with suppress(PackageNotFoundError):
            return version(package)
    return "there, of unknown version"
