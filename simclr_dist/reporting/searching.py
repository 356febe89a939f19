"""From features to the page of neighbours: the search, and what is said of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from simclr_dist.config.recipe import Data
from simclr_dist.data.loading.plain import GivenImages
from simclr_dist.data.sources.base import ImageSource
from simclr_dist.data.sources.whole import image_name
from simclr_dist.distributed.collectives import process_rank
from simclr_dist.errors import UserError
from simclr_dist.evaluation.feature_files import read_features
from simclr_dist.evaluation.features import Extraction, extract_features, feature_matrix
from simclr_dist.evaluation.similar import Query, SmallPixels, most_similar
from simclr_dist.evaluation.source_features import SourceFeatures
from simclr_dist.reporting.markup import Html
from simclr_dist.reporting.neighbours import Pictures, Searched, neighbours_page
from simclr_dist.terminal import say
from simclr_dist.weights.loaded import LoadedEncoder


def features_of_file(path: Path, loaded: LoadedEncoder, source: ImageSource, data: Data) -> SourceFeatures:
    """What ``simclr-dist features`` wrote of the images of ``source``.

    A file of an earlier version does not say what the weights leave open of the network; it is taken, and that is said.

    Raises:
        UserError: it is of another encoder, of pixels normalised otherwise, of other images or of another image size.
    """
    known, matrix = read_features(path)
    if "architecture" not in known and process_rank() == 0:
        say(
            f"--features: {path} does not say its encoder's strides and paddings, which the weights leave open; "
            "written again it does",
            err=True,
        )
    network = json.loads(json.dumps(loaded.network))
    for key, here, what in (
        ("encoder_sha256", loaded.sha256, "another encoder"),
        ("architecture", network if "architecture" in known else None, "the same weights in another network"),
        ("mean", loaded.mean, "pixels normalised otherwise"),
        ("std", loaded.std, "pixels normalised otherwise"),
        ("fingerprint", source.fingerprint(), "other images"),
        ("image_size", data.image_size, "another image size"),
        ("transparent_ground", data.transparent_ground, "pixels read by another rule"),
        ("apply_orientation", data.apply_orientation, "pixels read by another rule"),
    ):
        if known.get(key) != here:
            raise UserError(
                f"--features: {path} is of {what} ({known.get('encoder')}, {known.get('folder')}, "
                f"{known.get('images')} images, {known.get('image_size')} pixels); leave it out, or write it again"
            )
    samples = np.setdiff1d(np.arange(len(source)), np.array(known["left_out_broken"], dtype=np.int64))
    if len(samples) != len(matrix):
        raise UserError(f"--features: {path} has {len(matrix)} rows for {len(samples)} images; write it again")
    return SourceFeatures(matrix, samples, np.arange(len(samples)))


def page_of_neighbours(
    loaded: LoadedEncoder,
    source: ImageSource,
    data: Data,
    bank: SourceFeatures,
    queries: list[Query],
    pixels: SmallPixels | None,
    how: Extraction,
    k: int,
) -> Html:
    """Search, and show what was found; on process 0 alone. ``pixels``: whose kept features are the baseline."""
    asked, own = GivenImages([query.pixels for query in queries]), [query.sample for query in queries]
    now = replace(how, cache=None, workers=0, talks=False)
    features = extract_features(loaded.encoder, asked, data.image_size, now)
    name = str(loaded.recipe.encoder.name)
    ways = [Searched(f"Features of the encoder ({name})", most_similar(bank, features, own, k, talks=how.talks))]
    if pixels is not None:
        matrix = feature_matrix(pixels, source, data.image_size, replace(how, label="raw pixels", talks=False))
        raw = SourceFeatures(matrix, bank.samples, bank.samples)
        features = extract_features(pixels, asked, data.image_size, now)
        ways.append(Searched("Raw pixels", most_similar(raw, features, own, k, centred=True, talks=how.talks)))
    left_out = len(source) - len(bank.samples)
    facts = [
        ("encoder", f"{loaded.source}: {name}, {bank.matrix.shape[1]} features, images of {data.image_size} pixels"),
        ("weights", f"SHA-256 {loaded.sha256[:16]}..."),
        ("images", f"{len(bank.samples):,} of {data.path}" + (f"; left out, broken: {left_out}" if left_out else "")),
    ]
    pictures = Pictures(lambda sample: image_name(source, sample), source.read)
    return neighbours_page(f"Neighbours by {loaded.source}", facts, pictures, queries, ways)
