"""A look at the classes before anything is learned: which both splits have, how many images each, and what is odd."""

from dataclasses import dataclass, field

import numpy as np

from simclr_dist.data.sources.base import ImageSource, Subset
from simclr_dist.errors import UserError
from simclr_dist.evaluation.subsets import Indices, Labels, labels_of

_UNEQUAL = 1.5


@dataclass(frozen=True)
class LabelledImages:
    """Images to learn from and to ask about. Classes are numbered without gaps, and each has an image to learn from."""

    train: ImageSource
    test: ImageSource
    train_labels: Labels
    test_labels: Labels
    classes: list[str]
    """Names; numbers in words where the source has none."""
    left_out: int = 0
    """Test images of classes that have no training image: nobody could tell them."""
    notices: list[str] = field(default_factory=list)
    """What whoever reads the numbers should know, one sentence each."""


def look_at_classes(train: ImageSource, test: ImageSource) -> LabelledImages:
    """Number the classes that can be learned, and leave test images of others out.

    Raises:
        UserError: there are no labels, one class only, or no test image of a class of the training images.
    """
    train_of = labels_of(train)
    names, test_of = numbered_alike(train, test)
    most = int(max(train_of.max(), test_of.max())) + 1
    names += [f"number {label}" for label in range(len(names), most)]
    learned = np.unique(train_of)
    if len(learned) < 2:
        raise UserError(
            f"recipe.data: all {len(train)} training images are of one class ('{names[learned[0]]}'): there is nothing "
            "to tell apart; sort them into a folder for each class, or name other images with --on"
        )
    told = np.isin(test_of, learned)
    left_out = int((~told).sum())
    if not told.any():
        raise UserError(
            f"recipe.data: no test image is of a class of the training images ({_listed(names, learned)}); the test "
            f"images have {_listed(names, np.unique(test_of))}: name the folders of both alike"
        )
    notices = []
    if missing := np.setdiff1d(test_of, learned).tolist():
        notices.append(
            f"left out: {left_out} test image{'s' * (left_out != 1)} of classes without training images, "
            f"{_listed(names, missing)}"
        )
    if silent := np.setdiff1d(learned, test_of).tolist():
        notices.append(f"without test images, so that nothing asks for them: {_listed(names, silent)}")
    new = np.zeros(most, dtype=np.int64)
    new[learned] = np.arange(len(learned))
    found = LabelledImages(
        train=_renumbered(train, np.arange(len(train)), new[train_of]),
        test=_renumbered(test, np.flatnonzero(told), new[test_of[told]]),
        train_labels=new[train_of],
        test_labels=new[test_of[told]],
        classes=[names[label] for label in learned],
        left_out=left_out,
        notices=notices,
    )
    kinds = {"training": found.train_labels, "test": found.test_labels}
    if unequal := next((kind for kind, labels in kinds.items() if are_unequal(labels)), None):
        sizes = np.bincount(kinds[unequal], minlength=len(found.classes))
        notices.append(
            f"the classes are unequal ({sizes.min()} to {sizes.max()} {unequal} images, fewest of "
            f"'{found.classes[int(sizes.argmin())]}'): balanced accuracy, the mean over the classes, stands beside"
        )
    return found


def numbered_alike(train: ImageSource, test: ImageSource) -> tuple[list[str], Labels]:
    """(names of the classes of both, the test images' labels as the training images count them): by name where the
    splits number their classes each for itself and no name is there twice.

    Raises:
        UserError: there are no labels.
    """
    names, test_of = list(train.classes), labels_of(test)
    if names == test.classes or len(set(names)) < len(names) or not names or not test.classes:
        return names, test_of
    number = {name: index for index, name in enumerate(dict.fromkeys([*names, *test.classes]))}
    return list(number), np.array([number[test.classes[label]] for label in test_of], dtype=np.int64)


def are_unequal(labels: Labels) -> bool:
    """Whether the largest class that is there has more than 1.5 times the images of the smallest."""
    sizes = np.bincount(labels)
    return bool(sizes.max() > _UNEQUAL * sizes[sizes > 0].min())


def _renumbered(source: ImageSource, indices: Indices, labels: Labels) -> ImageSource:
    """The source itself where nothing changes, so that its fingerprint stays."""
    if len(indices) == len(source) and np.array_equal(labels, labels_of(source)):
        return source
    found = Subset(source, indices)
    found.labels = labels
    return found


def _listed(names: list[str], labels: Indices | list[int]) -> str:
    shown = [f"'{names[label]}'" for label in labels[:5]]
    return ", ".join(shown) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")
