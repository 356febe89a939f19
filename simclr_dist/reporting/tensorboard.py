"""The same in TensorBoard where it belongs: features in its projector, pictures among its images."""

import contextlib
import io
import shutil

from simclr_dist.reporting import Missing
from simclr_dist.reporting.context import open_context
from simclr_dist.reporting.facts import Facts
from simclr_dist.reporting.gallery import class_names, picture_of_kernels, picture_of_views
from simclr_dist.storage.paths import in_utf8


def write_tensorboard(run: Facts, images: int) -> str:
    """Write RUN/tensorboard/report anew; returns the line to print."""
    try:
        context = open_context(run, images)
        features = context.features
    except Missing as missing:
        return f"{run.path}: nothing for TensorBoard: {missing}"
    from torch.utils.tensorboard import SummaryWriter

    # A folder beside the events of training: the projector reads one folder as one set of features.
    folder = run.path / "tensorboard" / "report"
    shutil.rmtree(folder, ignore_errors=True)
    labels, step = context.shown.labels, context.steps_done
    names = [in_utf8(name) for name in class_names(context)]
    label_names = [names[label] for label in labels] if labels is not None else [""] * len(features)
    with contextlib.closing(SummaryWriter(str(folder))) as writer, contextlib.redirect_stdout(io.StringIO()):
        writer.add_embedding(features, label_names, context.shown.thumbnails.float() / 255, step, "features")
        writer.add_image("views", picture_of_views(context), step)
        with contextlib.suppress(Missing):
            writer.add_image("first_kernels", picture_of_kernels(context), step)
    return f"{folder}: features for the projector and pictures; show: tensorboard --logdir {run.path}"
