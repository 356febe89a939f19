"""What a set of pasted_cutouts.py gives without a network: shares of classes, mean IoU of two trivial answers."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import PolynomialFeatures

from simclr_dist.data.sources.base import IGNORED

PIXELS = 40_000
"""That the colours are learnt from."""
Pixels = NDArray[np.uint8]


def read_split(folder: Path) -> tuple[Pixels, Pixels]:
    """Images (count, side, side, 3) and masks (count, side, side)."""
    names = sorted(path.name for path in (folder / "masks").iterdir())
    return tuple(  # type: ignore[return-value]
        np.stack([np.asarray(Image.open(folder / kind / name)) for name in names]) for kind in ("images", "masks")
    )


def ious(answers: Pixels, masks: Pixels, classes: int) -> NDArray[np.float64]:
    """Intersection over union of each class over all pixels that count."""
    counted = masks != IGNORED
    pairs = masks[counted].astype(np.int64) * classes + answers[counted]
    confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    return np.asarray(confusion.diagonal() / np.maximum(union, 1))


def by_colour(train: tuple[Pixels, Pixels], images: Pixels) -> Pixels:
    """The class of each pixel by its colour alone: logistic regression on its colour's products up to the third degree.

    Classes weigh alike, else the answer is the background nearly everywhere.
    """
    counted = train[1] != IGNORED
    colours, labels = train[0][counted] / 255.0, train[1][counted]
    chosen = np.random.default_rng(0).permutation(len(labels))[:PIXELS]
    products = PolynomialFeatures(3)
    model = LogisticRegression(class_weight="balanced", max_iter=300)
    model.fit(products.fit_transform(colours[chosen]), labels[chosen])
    found = model.predict(products.transform(images.reshape(-1, 3) / 255.0))
    return np.asarray(found, dtype=np.uint8).reshape(images.shape[:-1])


def print_context(folder: Path, classes: list[str]) -> None:
    """A table: a line a class, then means."""
    print("what colours alone give is computed", flush=True)
    train, test = read_split(folder / "train"), read_split(folder / "test")
    answers = {
        "always background": ious(np.zeros_like(test[1]), test[1], len(classes)),
        "by colour": ious(by_colour(train, test[0]), test[1], len(classes)),
    }
    shares = [np.bincount(masks.ravel(), minlength=256) / masks.size for _, masks in (train, test)]
    shown = [np.mean([(mask == number).any() for mask in train[1]]) for number in range(len(classes))]
    print(f"{'':12}  share of pixels  in images  IoU (test)")
    print(f"{'':12}   train    test     (train)  {'  '.join(answers)}")
    for number, name in enumerate(classes):
        found = "  ".join(f"{100 * iou[number]:>{len(answer)}.1f}" for answer, iou in answers.items())
        print(f"{name:12} {shares[0][number]:7.1%} {shares[1][number]:7.1%}  {shown[number]:9.1%}  {found}")
    print(f"{'ignored':12} {shares[0][IGNORED]:7.1%} {shares[1][IGNORED]:7.1%}")
    means = "  ".join(f"{100 * iou.mean():>{len(answer)}.1f}" for answer, iou in answers.items())
    print(f"{'mean':12} {'':7} {'':7}  {'':9}  {means}")
