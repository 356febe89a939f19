"""What the server does once, from which processes are forked (``tests.support.processes``): what each would do first.

The first view that a process renders has numba load half a second of itself.
"""

import gc

from simclr_dist.config import load_config
from simclr_dist.data.loading.batches import ViewBatches
from simclr_dist.data.loading.order import build_order
from tests.support.images import open_source

_recipe = load_config("digits_demo", []).recipe
_source = open_source(_recipe.data)
ViewBatches(_source, _recipe, build_order(_recipe, len(_source))).prepare()
gc.collect()
gc.freeze()  # else each process goes through all that was loaded here whenever it collects, and copies it
