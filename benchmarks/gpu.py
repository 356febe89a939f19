"""What this project does on a GPU, in one command and six minutes; without a GPU, a rehearsal of the same code.

    PYTHONPATH=. python benchmarks/gpu.py --out DIR [--only step loss] [--minutes 6] [--rehearsal]

From a checkout, not installed, without network. Each section is a process of its own with a time limit: what it has
found until then is kept, and no section is lost to another's failure. DIR gets gpu.json and gpu.md, written anew after
each section, and SECTION.log with what it printed. docs/gpu.md says how to read the table.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import date
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asks for a GPU without touching CUDA; before torch

import gpu_sections
import torch
from gpu_sections.here import Here
from gpu_sections.running import CONTEXT, Found, Running

import simclr_dist

_PACKAGES = ("torch", "torchvision", "triton", "numpy", "numba", "lightly")


def card() -> dict[str, Any]:
    """The GPU that torch sees, asked in a process of its own; empty: none."""
    reader, writer = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_send_card, args=(writer,))
    process.start()
    writer.close()
    process.join()
    try:
        return dict(reader.recv())
    except EOFError:
        return {}


def _send_card(writer: Any) -> None:
    if not torch.cuda.is_available():
        return
    properties = torch.cuda.get_device_properties(0)
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else "none"
    writer.send(
        {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "nccl": nccl,
        }
    )


def facts(gpu: dict[str, Any]) -> dict[str, Any]:
    """Where and with what it runs."""
    versions = {"simclr_dist": simclr_dist.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {"date": date.today().isoformat(), "card": gpu, "cores": len(os.sched_getaffinity(0)), "versions": versions}


def table(where: dict[str, Any], found: Sequence[Found]) -> str:
    """All that was found, in markdown."""
    gpu = where["card"]
    name = f"{gpu['name']}, CUDA {gpu['cuda']}, NCCL {gpu['nccl']}" if gpu else "a rehearsal on a CPU: no number counts"
    packages = ", ".join(f"{package} {number}" for package, number in where["versions"].items())
    lines = [f"{where['date']}, {name}; {where['cores']} cores; {packages}", ""]
    lines += ["| section | what | figure | wanted | |", "| --- | --- | --- | --- | --- |"]
    for each in found:
        title = each.section.title
        for row in each.rows:
            verdict = {True: "holds", False: "FAILS", None: ""}[row.holds]
            cells = [title, row.what, row.figure, row.wanted, verdict]
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
            title = ""
        if each.state != "done":
            lines.append(f"| {title} | the section | {each.state.replace('|', '/')} | | |")
    return "\n".join([*lines, ""])


def save(out: Path, where: dict[str, Any], done: Sequence[Found]) -> None:
    """Write all that is known by now, and say what is new."""
    print(f"{done[-1].section.name}: {done[-1].state}, {done[-1].seconds:.0f} s", flush=True)
    for row in done[-1].rows:
        print(f"  {row.what}: {row.figure}", flush=True)
    sections = {
        each.section.name: {"state": each.state, "seconds": each.seconds, "rows": [*map(asdict, each.rows)]}
        for each in done
    }
    (out / "gpu.json").write_text(json.dumps(where | {"sections": sections}, indent=1))
    (out / "gpu.md").write_text(table(where, done))


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every section came to its end; a bound that is missed is said and is no failure of the command."""
    names = [section.name for section in gpu_sections.SECTIONS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.json, gpu.md and the logs")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="SECTION", help=", ".join(names))
    parser.add_argument("--minutes", type=float, default=6.0, help="of all sections together")
    parser.add_argument("--rehearsal", action="store_true", help="on the CPU with tiny sizes, even where a GPU is")
    options = parser.parse_args(arguments)
    until = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    where = facts({} if options.rehearsal else card())
    if not where["card"]:
        print("no GPU here: a rehearsal of the same code on the CPU with tiny sizes", flush=True)
    done: list[Found] = []
    chosen = [section for section in gpu_sections.SECTIONS if section.name in options.only]
    together = [section for section in chosen if not section.timed]
    for section in chosen:
        with suppress(Exception):  # it fails again, and is told, in the section's own process
            import_module(f"gpu_sections.{section.name}")
    with tempfile.TemporaryDirectory() as folder:
        here = Here(bool(where["card"]), Path(folder))
        for batch in ([together] if together else []) + [[section] for section in chosen if section.timed]:
            begun = [Running(section, here, options.out) for section in batch] if time.monotonic() < until else []
            for section, running in zip_longest(batch, begun):
                done.append(running.finish(until) if running else Found(section))
                save(options.out, where, done)
    print(f"\n{table(where, done)}")
    return 0 if all(found.state == "done" for found in done) else 1


if __name__ == "__main__":
    sys.exit(main())
