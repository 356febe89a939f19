"""Where a run's numbers go beside its own folder: the keys below ``machine.tracking``."""

from dataclasses import dataclass, field

from simclr_dist.config.fields import one_of


@dataclass(kw_only=True)
class Wandb:
    """Weights & Biases. The words are those of ``wandb.init``."""

    project: str = ""
    """Project of Weights & Biases that the run is sent to (docs/tracking.md); empty: it is not."""
    entity: str = ""
    """User or team that the project belongs to; empty: as WANDB_ENTITY says, or the account's own."""
    name: str = ""
    """Name of the run there; empty: that of the run folder."""
    group: str = ""
    """Group of the run there; empty: none."""
    tags: str = ""
    """Tags of the run there, with commas between them."""
    mode: str = one_of("auto", ("auto", "online", "offline"))
    """auto: as WANDB_MODE says, else online; offline where there is no account. Offline the run is written to
    RUN_DIR/wandb, for `wandb sync`."""


@dataclass(kw_only=True)
class Mlflow:
    """MLflow."""

    experiment: str = ""
    """Experiment of MLflow that the run is sent to (docs/tracking.md); empty: it is not."""
    tracking_uri: str = ""
    """Server, database or folder of MLflow; empty: as MLFLOW_TRACKING_URI says, else the folder RUN_DIR/mlruns."""
    run_name: str = ""
    """Name of the run there; empty: that of the run folder."""


@dataclass(kw_only=True)
class Tracking:
    """What else hears of the metrics. A process of its own sends them: the training neither waits nor fails for it."""

    wandb: Wandb = field(default_factory=Wandb)
    mlflow: Mlflow = field(default_factory=Mlflow)

    @property
    def asked_for(self) -> list[str]:
        """Names of the trackers that are wanted, which are also those of their Python packages."""
        return ["wandb"] * bool(self.wandb.project) + ["mlflow"] * bool(self.mlflow.experiment)
