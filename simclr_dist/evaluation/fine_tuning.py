"""All weights trained with labels: from the pretrained ones, and from scratch for comparison, by the same code.

Every process calls it and gets the result. Nothing is chosen on test images: the classifier of the last step counts.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace

from torch import nn

from simclr_dist.data.sources.base import Subset
from simclr_dist.errors import AgreedError
from simclr_dist.evaluation.classifiers import accuracies
from simclr_dist.evaluation.context import EvaluationContext
from simclr_dist.evaluation.features import extract_features, settle_statistics
from simclr_dist.evaluation.image_batches import cropped_and_flipped
from simclr_dist.evaluation.protocol import FINE_TUNING, Protocol
from simclr_dist.evaluation.results import Result, ResultRow, accuracy_columns
from simclr_dist.evaluation.saved_training import Accuracies
from simclr_dist.evaluation.subsets import Indices, share_of_labels, subset_digest
from simclr_dist.evaluation.supervised import Classifier, steps_of, total_steps, train_classifier
from simclr_dist.methods.build import build_encoder, build_method, head_of
from simclr_dist.models.image_sides import take_images

SHARES = (0.01, 0.1, 1.0)
_STARTS = {"pretrained": "fine-tuned, pretrained", "scratch": "supervised, from scratch"}


def finetune(
    context: EvaluationContext,
    *,
    label_shares: Sequence[float] = SHARES,
    splits: int = 1,
    starts: Sequence[str] = ("pretrained",),
    from_layer: int = 0,
    epochs: int | None = None,
    batch_images: int | None = None,
    base_learning_rate: float | None = None,
    optimizer: str | None = None,
    precision: str | None = None,
    seed: int = 0,
) -> Result:
    """Fine-tune with some shares of the labels (Chen et al. 2020, appendix B.5), class by class.

    Args:
        context: the encoder, which is copied, and the images.
        label_shares: of each class's images.
        splits: draws of them; their numbers are ``seed``, ``seed`` + 1, ...
        starts: ``pretrained``, ``scratch`` (the same network from its initial weights), or both.
        from_layer: of the projection head, how many layers are kept below the classifier (SimCLR v2: 1 of 3).
        epochs: None: 60 up to 1 % of the labels, 30 above.
        batch_images: None: the recipe's global batch. No more than the images with labels.
        base_learning_rate: for 256 images; None: 0.05.
        optimizer: ``sgd`` (None) or ``lars``.
        precision: of the kernels while training, ``float32`` (None) or ``bfloat16``.
        seed: of the first draw, the order of the images, their crops and the classifier's initial weights.

    Raises:
        UserError: the head has no such layer, the processes cannot share a batch, the training diverged.
        TrainingStoppedError: a signal stopped a training that is saved (``context.unfinished``).
    """
    method = "baseline" if list(starts) == ["scratch"] else "finetune"
    rows: list[ResultRow] = []
    batch = batch_images or context.recipe.global_batch_images
    chosen = {
        "batch_images": batch,
        "base_learning_rate": base_learning_rate,
        "optimizer": optimizer,
        "precision": precision,
    }
    for share in label_shares:
        default = FINE_TUNING.epochs if share <= 0.01 else FINE_TUNING.epochs // 2
        protocol = FINE_TUNING.with_choices(epochs=epochs or default, **chosen)
        drawn = [share_of_labels(context.train_labels, share, seed + split) for split in range(splits)]
        by_start = {}
        for start in starts:
            found = [
                _accuracies(context, method, indices, start, from_layer, protocol, seed, share) for indices in drawn
            ]
            by_start[start] = ResultRow(
                name=_STARTS[start],
                labels=f"{100 * share:g} %",
                images=len(drawn[0]),
                **accuracy_columns(found),
                subsets_sha256=tuple(subset_digest(indices) for indices in drawn),
                details={"epochs": protocol.epochs, "batch_images": min(batch, len(drawn[0]))},
            )
        if by_start.keys() == _STARTS.keys():
            by_start["pretrained"].details["gain"] = by_start["pretrained"].mean - by_start["scratch"].mean
        rows += by_start.values()
    chosen_protocol = asdict(FINE_TUNING.with_choices(**chosen)) | {"epochs": epochs}  # None: by share
    chosen_protocol |= {"label_shares": list(label_shares), "splits": splits, "starts": list(starts)}
    return context.result(method, {**chosen_protocol, "from_layer": from_layer, "seed": seed}, rows)


def _accuracies(
    context: EvaluationContext,
    method: str,
    indices: Indices,
    start: str,
    from_layer: int,
    protocol: Protocol,
    seed: int,
    share: float,
) -> Accuracies:
    pretrained, how, size = context.pretrained, context.how, context.data.image_size
    chosen = Subset(context.train, indices)
    if start == "pretrained":
        body, features = network_body(pretrained.encoder, pretrained.projection, from_layer)
    else:
        # The encoder alone where that is all: a method may hold a bank of every image.
        fresh = build_method(context.recipe, len(context.train)) if from_layer else None
        encoder = fresh.encoder if fresh else build_encoder(context.recipe)
        take_images(encoder, size)
        body, features = network_body(encoder, head_of(fresh) if fresh else None, from_layer)
        settle_statistics(body.to(how.device), chosen, size)
    classifier = Classifier(body, features, context.classes, seed=seed)
    order = steps_of(protocol, len(chosen), seed)
    recipe = replace(context.recipe, data=context.data)
    batches = cropped_and_flipped(chosen, recipe, order, workers=how.workers, pin_memory=how.device.type == "cuda")
    saved = context.saved_training(method, classifier, protocol, order, indices)
    if saved.accuracies:
        return saved.accuracies
    label = f"{_STARTS[start]}, {100 * share:g} %"
    train_classifier(classifier, protocol, order, batches, how.device, label=label, talks=how.talks, saved=saved)
    scores = extract_features(classifier, context.test, size, replace(how, cache=None))
    return saved.finish(accuracies(scores, context.test_labels), total_steps(protocol, order))


def network_body(encoder: nn.Module, projection: nn.Module | None, from_layer: int) -> tuple[nn.Module, int]:
    """The encoder and the first ``from_layer`` layers of its head, and the number of features that come out.

    Raises:
        UserError: the head has fewer layers, or is none of this project's.
    """
    if not from_layer:
        return encoder, int(encoder.output_dim)  # type: ignore[arg-type]
    layers = dict(projection.named_children()) if isinstance(projection, nn.Sequential) else {}
    linear = layers.get(f"linear_{from_layer}")
    if not isinstance(linear, nn.Linear):
        there = sum(name.startswith("linear_") for name in layers)
        raise AgreedError(f"--from-layer: {from_layer}, but the projection head of these weights has {there} layers")
    names = list(layers)
    end = names.index(f"linear_{from_layer + 1}") if f"linear_{from_layer + 1}" in layers else len(names)
    return nn.Sequential(encoder, *list(layers.values())[:end]), linear.out_features
