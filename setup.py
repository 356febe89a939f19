"""Packaging. ``launch/`` and ``configs/`` stand at the top of the checkout; links put them inside the package."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "simclr_dist" / "__init__.py").read_text())
assert version

for folder in ("launch", "configs"):
    # Where links cannot be made, git and some unpackers write a text file with the link's target.
    if (here / "simclr_dist" / folder).is_file():
        raise SystemExit(
            f"setup.py: simclr_dist/{folder} is a text file, not a link to ../{folder}: this checkout was made without "
            "symbolic links; clone it with git -c core.symlinks=true, or install from the sdist "
            "(docs/design/launch_folder.md)"
        )

setup(
    name="simclr_dist",
    version=version[1],
    description="Distributed large-batch contrastive pretraining whose trajectory depends on the recipe alone",
    long_description=(here / "README.md").read_text() if (here / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["simclr_dist", "simclr_dist.*"]),
    package_data={
        "simclr_dist.configs": ["*.yaml"],
        "simclr_dist": ["py.typed"],
        "simclr_dist.reporting": ["page.css", "page.js"],
    },
    install_requires=[
        "click>=8.1",
        "matplotlib>=3.8",
        "numba>=0.61",
        "numpy>=1.26",
        "omegaconf>=2.3",
        "pillow>=10",
        "safetensors>=0.4",
        "scikit-learn>=1.4",
        "simplejpeg>=1.8",
        "tensorboard>=2.16",
        "torch>=2.11",
        "torchvision>=0.26",
        "tqdm>=4.66",
    ],
    extras_require={
        "ffcv": ["ffcv>=1.0.2"],
        "parquet": ["pyarrow>=15"],
        "shards": ["fsspec>=2024.2", "aiohttp>=3.9"],
        "video": ["av>=14"],
        "slurm": ["submitit>=1.5,<1.6"],
        "export": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5", "timm>=1.0"],
        "wandb": ["wandb>=0.20"],
        "mlflow": ["mlflow-skinny>=3.0"],
        "timm": ["timm>=1.0.20"],
        "bench": ["lightly>=1.5", "torch-optimizer>=0.3"],
        "dev": [
            "av>=14",
            "aiohttp>=3.9",
            "build",
            "flask",
            "flask-cors",
            "fsspec>=2024.2",
            "hypothesis",
            "mlflow-skinny>=3.0",
            "moto[s3]",
            "mypy",
            "onnx",
            "onnxruntime",
            "onnxscript",
            "pre-commit",
            "pyarrow>=15",
            "pytest",
            "pytest-xdist",
            "ruff",
            "s3fs",
            "scikit-image",
            "submitit>=1.5,<1.6",
            "timm",
            "torch-optimizer>=0.3",
            "types-PyYAML",
            "wandb>=0.20",
        ],
    },
    entry_points={"console_scripts": ["simclr-dist = simclr_dist.__main__:main"]},
)
