"""Run folders as a training leaves them, without a training."""

import json
from pathlib import Path
from typing import Any

import yaml

KEYS = {"wandb": {"project": "p"}, "mlflow": {"experiment": "e"}}


def line(step: int, shift: float = 0.0) -> dict[str, Any]:
    """The record of a step; its loss is not finite at step 3."""
    return {"step": step, "epoch": 1, "loss": None if step == 3 else 5.0 / step + shift, "gradient_norm": 1.0 * step}


def write_run(folder: Path, steps: int, shift: float = 0.0, after: int = 0, **tracking: Any) -> Path:
    """``folder``/run with ``steps`` of 12; ``shift`` is added to the losses of the steps ``after`` one."""
    run_dir = folder / "run"
    run_dir.mkdir(exist_ok=True)
    lines = [line(step, shift if step > after else 0.0) for step in range(1, steps + 1)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    (run_dir / "run.json").write_text(json.dumps({"total_steps": 12, "code": "0.1.0 (300316a0c1d2+)"}))
    config = {"recipe": {"epochs": 3, "seed": 0}, "machine": {"precision": "float32", "tracking": tracking}}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    return run_dir


def evaluated(run_dir: Path) -> None:
    """What `evaluate RUN knn` writes, as far as it matters here."""
    row = {"name": "kNN, pretrained", "labels": "100 %", "mean": 0.75}
    content = {"method": "knn", "steps_done": 12, "rows": [row]}
    (run_dir / "evaluation_step_000000012_knn_0badcafe.json").write_text(json.dumps(content))
