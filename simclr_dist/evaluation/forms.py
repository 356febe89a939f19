"""Simple forms in which features can be given to a classifier: as they are, centred, whitened.

Cosines of pixels that are not centred are all near one, above all of pictures on white. So no features, raw pixels
least of all, are judged in one form: each is offered all of these, and what is best on training images counts.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from simclr_dist.evaluation.feature_blocks import Features

RIDGES = (10.0, 1.0)
FORMS = ("as they are", "centred", *(f"whitened, ridge {ridge:g}" for ridge in RIDGES))
_MOST_AXES = 4096


def forms(train: Features, test: Features) -> Iterator[tuple[str, Features, Features]]:
    """(name, training images, test images) in each form; mean and axes are those of the training images, unlabelled.

    Whitened: along the principal axes, each divided by the root of its variance plus a ridge, in mean variances. With
    more than 4,096 features the axes are those of at most so many images, evenly spaced.
    """
    yield "as they are", train, test
    mean = train.mean(0, dtype=np.float64).astype(np.float32)
    train, test = train - mean, test - mean
    yield "centred", train, test
    yield from _whitened(train, test, RIDGES)


def _whitened(train: Features, test: Features, ridges: Sequence[float]) -> Iterator[tuple[str, Features, Features]]:
    some = train.astype(np.float64)
    if train.shape[1] > _MOST_AXES:
        some = some[:: -(-len(some) // _MOST_AXES)]
    if some.shape[1] > len(some):  # the axes lie in the span of the images
        squares, images = np.linalg.eigh(some @ some.T)
        there = squares > max(squares[-1] * 1e-10, np.finfo(np.float64).tiny)
        squares = squares[there]
        axes = some.T @ (images[:, there] / np.sqrt(squares))
    else:
        squares, axes = np.linalg.eigh(some.T @ some)
    if not len(squares) or squares[-1] <= 0:  # all images are the same
        return
    axes32, variances = axes.astype(np.float32), np.maximum(squares, 0) / len(some)
    rotated = train @ axes32, test @ axes32
    for ridge in ridges:
        scale = (1 / np.sqrt(variances + ridge * variances.mean())).astype(np.float32)
        yield f"whitened, ridge {ridge:g}", rotated[0] * scale, rotated[1] * scale
