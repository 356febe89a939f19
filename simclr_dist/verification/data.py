"""Whether images and views are the recipe's: their order, their random choices, their rendering."""

from dataclasses import replace

import numpy as np

from simclr_dist.data.loading.batches import ViewBatches
from simclr_dist.data.rendering.device_ import render_colors
from simclr_dist.data.rendering.renderers import RENDERERS
from simclr_dist.distributed.collectives import gather_objects
from simclr_dist.verification.check import Check, largest
from simclr_dist.verification.miniature import IMAGE_SIDE, Miniature, resized


def data_checks(small: Miniature) -> list[Check]:
    """Order and views against one process, renderers against torchvision."""
    return [
        Check("sample order", order_error(small), 0.0),
        Check("views", _views(small), 0.0),
        Check("renderers", _renderers(small), 0.5 / 255),
    ]


def order_error(small: Miniature) -> float:
    """Samples that are not in their place, or not once in an epoch."""
    order = replace(small.order, images=10 * small.batch + 1)
    wrong = 0
    for step in (0, 3, order.steps_per_epoch):
        shares = gather_objects(order.samples(step, small.processes.rank, small.processes.count).tolist())
        together = [sample for share in shares for sample in share]
        wrong += sum(a != b for a, b in zip(together, order.samples(step).tolist(), strict=True))
    epoch = [sample for step in range(order.steps_per_epoch) for sample in order.samples(step).tolist()]
    return float(wrong + len(epoch) - len(set(epoch)))


def _views(small: Miniature) -> float:
    """Largest difference of a pixel."""
    source, processes = small.source(), small.processes
    own = ViewBatches(source, small.recipe, small.order, processes.rank, processes.count)[1].views
    # Rank 0's word counts: what one process alone would see.
    alone = ViewBatches(source, small.recipe, small.order)[1].views
    errors = []
    for name in small.recipe.views:
        together = np.concatenate(gather_objects(own[name].numpy())).astype(np.int64)
        expected = gather_objects(alone[name].numpy())[0].astype(np.int64)
        errors.append(float(np.abs(together - expected).max()))
    return largest(errors)


def _renderers(small: Miniature) -> float:
    """Mean difference from torchvision's operations, in 0..1, of the numba and of the device renderer."""
    # So large that there is a blur.
    recipe = replace(small.recipe, views=resized(small.recipe, 2 * IMAGE_SIDE))
    batches = ViewBatches(small.source(), recipe, small.order)
    reference = replace(batches, renderer=RENDERERS["torchvision"])[1].views
    by_numba, crops = batches[1].views, replace(batches, colors=False)[1]
    errors = []
    for name, group in recipe.views.items():
        colored = render_colors(crops.views[name].to(small.device), crops.choices[name], group.color_form).cpu()
        for views in (by_numba[name], colored):
            errors.append(float((views - reference[name].float()).abs().mean()) / 255)
    return largest(errors)
