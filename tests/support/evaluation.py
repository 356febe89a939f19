"""Something small to evaluate: an untrained encoder with some digits, and features that a classifier can tell apart."""

import numpy as np

from simclr_dist.config.shards import Shards
from simclr_dist.data.sources.base import Subset
from simclr_dist.evaluation.context import EvaluationContext
from simclr_dist.evaluation.features import Extraction
from simclr_dist.methods.build import build_method, head_of
from simclr_dist.weights.loaded import LoadedEncoder
from tests.support.methods import method_config
from tests.support.processes import tiny_config


class SmallContext(EvaluationContext):
    """Some digits, so that a test takes a moment."""

    def __init__(self, pretrained: LoadedEncoder, how: Extraction | None = None) -> None:
        super().__init__(pretrained, Shards(), None, how)
        self.train, self.test = Subset(self.train, np.arange(200)), Subset(self.test, np.arange(100))
        self.train_labels, self.test_labels = self.train.labels, self.test.labels


def small_context(folder, method="simclr", **how):
    recipe = (tiny_config(folder) if method == "simclr" else method_config(method, folder)).recipe
    built = build_method(recipe, images=200).eval()
    untrained = LoadedEncoder(encoder=built.encoder, projection=head_of(built), recipe=recipe, source="a test")
    return SmallContext(untrained, Extraction(**how))


def blobs(images=300, classes=6, dim=8):
    labels = np.arange(images) % classes
    centres = np.random.default_rng(1).normal(size=(classes, dim))
    features = centres[labels] + np.random.default_rng(images).normal(size=(images, dim))
    return features.astype(np.float32), labels.astype(np.int64)
