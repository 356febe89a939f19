"""What was taken for what, and what it says: intersection over union, pixel accuracy."""

import numpy as np
from numpy.typing import NDArray

from simclr_dist.data.sources.base import IGNORED

Counts = NDArray[np.int64]
"""(classes, classes): how many of each class (row) were taken for each (column)."""


def confusion(labels: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> Counts:
    """Of labels and predictions below ``classes``, both of shape (n,)."""
    counts = np.bincount(labels.astype(np.int64) * classes + predicted, minlength=classes * classes)
    matrix: Counts = counts.reshape(classes, classes).astype(np.int64)
    return matrix


def pixel_confusion(mask: NDArray[np.uint8], predicted: NDArray[np.integer], classes: int) -> Counts:
    """Of a mask and a prediction of the same shape; pixels that the mask ignores count nowhere."""
    counted = mask != IGNORED
    return confusion(mask[counted], predicted[counted], classes)


def class_iou(counts: Counts) -> NDArray[np.float64]:
    """Intersection over union of each class, shape (classes,): pixels that are rightly told, of those that are of the
    class or were taken for it (Everingham et al. 2010, section 4.2). NaN for a class that is in neither."""
    right = np.diag(counts)
    either = counts.sum(0) + counts.sum(1) - right
    return np.where(either > 0, right / np.maximum(either, 1), np.nan)


def mean_iou(counts: Counts) -> float:
    """The mean over the classes that masks or predictions have: one that is in neither counts nowhere, as in
    torchmetrics' macro average. NaN where no pixel counts."""
    found = class_iou(counts)
    return float(found[~np.isnan(found)].mean()) if counts.any() else float("nan")


def pixel_accuracy(counts: Counts) -> float:
    """The share of the pixels that is rightly told. NaN where no pixel counts."""
    return float(np.trace(counts) / counts.sum()) if counts.any() else float("nan")
