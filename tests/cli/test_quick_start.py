"""What the README promises a newcomer: its commands, its config, its code, the wheel. The demo's numbers: demo.py."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch

from simclr_dist.cli.main import command
from simclr_dist.config import load_config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    scripts = [*blocks("sh"), (ROOT / "script" / "demo").read_text()]
    lines = [line.partition("#")[0].strip() for script in scripts for line in script.splitlines()]
    return [line for line in lines if "simclr-dist" in line or "-m simclr_dist" in line]


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_readme_and_the_demo_is_one_that_the_command_line_accepts(line):
    words = shlex.split(line)
    names = ("simclr_dist", "simclr-dist", ".venv/bin/simclr-dist")
    words = words[next(at for at, word in enumerate(words) if word in names) + 1 :]
    subcommand: click.Command = command
    while isinstance(subcommand, click.Group):
        subcommand = subcommand.commands[words.pop(0)]
    # click keeps a command's help option as it was first asked for: as below the whole command.
    with click.Context(subcommand, help_option_names=["-h", "--help"]) as context:
        subcommand.parse_args(context, words)
    assert context.params


def test_the_config_of_the_readme_loads(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text(blocks("yaml")[0])
    config = load_config(str(file))
    assert (config.recipe.global_batch_images, config.machine.run_dir) == (1024, "runs/my")


def test_the_code_of_the_readme_runs():
    names = {"z_1": torch.randn(4, 8), "z_2": torch.randn(4, 8)}
    exec(blocks("python")[0], names)
    assert names["loss"].shape == ()


def test_a_wheel_installed_elsewhere_runs_the_demos_recipe_by_its_name(tmp_path):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, ROOT]
    subprocess.run([*pip, *build], check=True)
    wheel = next(tmp_path.glob("simclr_dist-*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "installed", wheel], check=True)
    # The reference renderer: the fast one would be compiled anew for this folder, twenty seconds for nothing new.
    overrides = "'machine.stop_after_steps=1', 'machine.renderer=torchvision', 'machine.loader_workers=0'"
    script = (
        "import simclr_dist, simclr_dist.cli.main as cli; print(simclr_dist.__file__);"
        f"cli.main(['pretrain', 'digits_demo', '--processes', '2', {overrides}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith(str(tmp_path / "installed"))
    assert "stopped after step 1 of 660" in done.stdout
    assert (tmp_path / "runs" / "digits_demo" / "checkpoints" / "last.pt").exists()
