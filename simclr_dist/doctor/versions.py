"""Python and the packages: which are there, and what a missing one costs."""

import importlib
import importlib.util
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from simclr_dist import __version__
from simclr_dist.doctor.findings import NOTE, PROBLEM, Finding

_AREA = "versions"
_IMPORTED = ("numpy", "torch", "torchvision", "numba")
"""Compiled packages that may be there and yet not load."""
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
    "timm": "simclr-dist export --to timm needs it: pip install 'simclr_dist[export]'",
    "ffcv": "nothing is lost: .beton files are read and written without it",
}


def findings() -> Iterator[Finding]:
    """Python, this package, what it needs and what it may use."""
    too_old = sys.version_info < (3, 11)
    where = f"{platform.python_version()} at {sys.executable}"
    yield Finding(_AREA, "python", where, *((PROBLEM, "install Python 3.11 or newer") if too_old else ()))
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
    return Finding(_AREA, name, _version(name))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "there, of unknown version"
