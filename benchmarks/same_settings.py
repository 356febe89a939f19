"""A folder that keeps a comparison is of one comparison: its settings stand beside the results."""

import json
import sys
from pathlib import Path
from typing import Any


def same_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write ``settings.json``, or end where the folder is of other settings, which are named as options."""
    file = out / "settings.json"
    if file.exists() and (there := json.loads(file.read_text())) != settings:
        differ = [f"--{key.replace('_', '-')} {there.get(key)}" for key in settings if there.get(key) != settings[key]]
        sys.exit(f"{out} is of a comparison with {', '.join(differ)}; give the same, or another --out")
    file.write_text(json.dumps(settings, indent=1))
