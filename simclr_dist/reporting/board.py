"""The same in TensorBoard where it belongs: features in its projector, pictures among its images."""

import contextlib
import io
import shutil

from simclr_dist.reporting import Missing
from simclr_dist.reporting.facts import Facts
from simclr_dist.reporting.gallery import class_names, picture_of_kernels, picture_of_views
from simclr_dist.reporting.subject import open_subject


def write_board(run: Facts, images: int) -> str:
    """Write RUN/tensorboard/report anew; returns what to tell."""
    try:
        subject = open_subject(run.path, images)
    except Missing as missing:
        return f"{run.path}: nothing for TensorBoard: {missing}"
    from torch.utils.tensorboard import SummaryWriter

    # A folder beside the events of training: the projector reads one folder as one set of features.
    folder = run.path / "tensorboard" / "report"
    shutil.rmtree(folder, ignore_errors=True)
    features, labels, step = subject.features, subject.shown.labels, subject.steps_done
    names = class_names(subject)
    told = [names[label] for label in labels] if labels is not None else [""] * len(features)
    with contextlib.closing(SummaryWriter(str(folder))) as board, contextlib.redirect_stdout(io.StringIO()):
        board.add_embedding(features, told, subject.shown.thumbnails.float() / 255, step, "features")
        board.add_image("views", picture_of_views(subject), step)
        board.add_image("first_kernels", picture_of_kernels(subject), step)
    return f"{folder}: features for the projector, views and first kernels; look with: tensorboard --logdir {run.path}"
