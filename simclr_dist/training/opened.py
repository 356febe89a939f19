"""What a run reads, opened: it does not depend on the processes."""

from typing import NamedTuple

import torch

from simclr_dist.config import Config
from simclr_dist.data.loading.order import SampleOrder, build_order
from simclr_dist.data.sources.base import ImageSource
from simclr_dist.data.sources.named import open_for_pretraining
from simclr_dist.evaluation.online import OnlineEvaluation
from simclr_dist.log import log
from simclr_dist.progress_bar import said_when_slow


class Opened(NamedTuple):
    """The images of a recipe, their order, and the online evaluation."""

    source: ImageSource
    order: SampleOrder
    online: OnlineEvaluation


def open_images(config: Config, device: torch.device, cores: int, *, say: bool = False) -> Opened:
    """The images of the recipe, their order and the online evaluation; ``say``: what takes so long.

    Raises:
        UserError: they cannot be read, or the recipe does not fit them.
    """
    recipe, machine = config.recipe, config.machine
    opening = f"opening the images of recipe.data ({recipe.data.source} {recipe.data.path})"
    with said_when_slow(opening, write=log.info, active=say):
        source = open_for_pretraining(config)
        order = build_order(recipe, source)
        online = OnlineEvaluation(recipe, machine, order.steps_per_epoch, device, cores=cores)
        return Opened(source, order, online)
