"""TensorBoard's event files, written as they are needed here: numbers of a step, now, in this thread.

torch's SummaryWriter writes in a thread that ends at the first error of the disk, with a traceback on the terminal, and
loses what it held.
"""

import io
import itertools
import os
import socket
import time
from pathlib import Path
from typing import Any

from simclr_dist.storage.appended_file import AppendedFile

_number = itertools.count()


def open_events(folder: Path, purge_step: int) -> AppendedFile:
    """A new event file; TensorBoard forgets what earlier ones say of ``purge_step`` and later steps.

    Raises:
        OSError: it cannot be made.
    """
    from tensorboard.compat.proto.event_pb2 import SessionLog

    folder.mkdir(parents=True, exist_ok=True)
    # The name that TensorBoard's own writer gives; files of one second are read in the order of their names.
    name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_number):06d}"
    file = AppendedFile(folder / name)
    file.write(_record(file_version="brain.Event:2"))
    file.write(_record(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
    return file


def scalars(step: int, values: dict[str, float]) -> bytes:
    """The record of a step's numbers, each under its name."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    return _record(step=step, summary=Summary(value=found))


def _record(**event: Any) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    RecordWriter(buffer).write(Event(wall_time=time.time(), **event).SerializeToString())
    return buffer.getvalue()
