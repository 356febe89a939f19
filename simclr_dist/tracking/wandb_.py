"""A run in Weights & Biases.

Online, W&B's server says how far the run is, and what comes is later. Offline there is no server to ask and W&B cannot
append to what it wrote: the run's one folder is written anew from metrics.jsonl, which is the whole of it, and the
folder before is removed. `wandb sync` of a run that was sent before replaces it.
"""

import netrc
import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from simclr_dist.config.tracking import Wandb
from simclr_dist.errors import UserError
from simclr_dist.tracking.facts import evaluation_numbers, result_files
from simclr_dist.tracking.sink import About, Record, Tell, finite
from simclr_dist.tracking.state import State


class WandbSink:
    """One run of W&B, of the same id in every process that resumes it."""

    def __init__(self, about: About, keys: Wandb, tell: Tell, *, trainer: int | None) -> None:
        """Begin or resume it. ``trainer``: the process whose use of the machine is shown, None: of none.

        Raises:
            Exception: whatever wandb raises.
        """
        os.environ.setdefault("WANDB_SILENT", "true")  # its warnings of no consequence; its logs have them
        import wandb

        self.about = about
        offline = _is_offline(keys.mode, tell)
        state, destination = State(about.run_dir, "wandb"), f"{keys.entity}/{keys.project}"
        entry = state.read(destination)
        if "id" not in entry:
            entry = {"id": secrets.token_hex(4)}
            state.write(destination, entry)  # before W&B hears of it: a kill must not leave a second run
        self._id = entry["id"]
        settings = {
            "console": "off", "silent": True, "symlink": False, "disable_git": True, "disable_code": True,
            "x_disable_stats": trainer is None,
        } | ({} if trainer is None else {"x_stats_pid": trainer})  # fmt: skip
        self._run = wandb.init(
            project=keys.project,
            entity=keys.entity or None,
            name=keys.name or about.name,
            group=keys.group or None,
            tags=[tag.strip() for tag in keys.tags.split(",") if tag.strip()] or None,
            id=self._id,
            dir=about.run_dir,
            mode="offline" if offline else "online",
            resume=None if offline else "allow",
            reinit="create_new",  # after an error: the run that failed is left to itself
            settings=wandb.Settings(**settings),
        )
        self.last_step = 0 if offline else self._run.starting_step - 1
        self._folder = Path(self._run.dir).resolve().parent
        config = about.config | {"code": about.code} if about.code else about.config
        self._run.config.update(config, allow_val_change=True)
        if offline:
            tell(f"offline, in {self._folder}; to send it: wandb sync {self._folder}")
        else:
            tell(f"{self._run.url}")

    def send(self, records: Sequence[Record]) -> None:
        for record in records:
            numbers = {name: finite(value) for name, value in record.items() if name != "step"}
            self._run.log(numbers, step=int(record["step"]), commit=True)

    def caught_up(self) -> None:
        """What an earlier process wrote offline of this run is in the present folder, or on the server."""
        for folder in (self.about.run_dir / "wandb").glob(f"offline-run-*-{self._id}"):
            if folder.resolve() != self._folder:
                shutil.rmtree(folder, ignore_errors=True)

    def send_results(self) -> None:
        for name, _, value in evaluation_numbers(self.about.run_dir):
            self._run.summary[name] = value
        for path in result_files(self.about.run_dir):
            self._run.save(str(path), base_path=str(path.parent), policy="now")

    def close(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


def _is_offline(mode: str, tell: Tell) -> bool:
    """Whether this process may not or cannot talk to W&B's server; it is never asked for an account."""
    asked = os.environ.get("WANDB_MODE", "online") if mode == "auto" else mode
    if asked == "disabled":
        raise UserError("WANDB_MODE=disabled, so nothing is sent")
    if asked != "online":
        return True
    if has_account():
        return False
    tell("no account of W&B here (WANDB_API_KEY, or wandb login), so the run is written offline")
    return True


def has_account() -> bool:
    """Whether wandb finds a key without asking: in the environment, a netrc file, or its own settings."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import wandb

    settings: Any = wandb.setup().settings
    if getattr(settings, "api_key", None):
        return True
    host = urlsplit(settings.base_url).hostname or ""
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        with suppress(OSError, netrc.NetrcParseError):
            if path and netrc.netrc(os.path.expanduser(path)).authenticators(host):
                return True
    return False
