"""Views made inside ffcv's own loader: one operation of its pipeline, and its iterator with this project's order.

Importing this module imports ffcv, which compiles for seconds and sets threads; ffcv_steps.py puts them back.
Nothing of ffcv is changed: two of its classes are inherited from.
"""

import os
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from ffcv.fields.rgb_image import RGBImageField, SimpleRGBImageDecoder
from ffcv.libffcv import imdecode, memcpy
from ffcv.loader import Loader, OrderOption
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.pipeline.compiler import Compiler
from ffcv.reader import Reader
from numpy.typing import NDArray

from simclr_dist.data.loading.batch import Batch
from simclr_dist.data.loading.batches import ViewBatches
from simclr_dist.data.loading.ffcv_process import type_of_flat_arrays_kept
from simclr_dist.data.rendering.kernels.jpeg import jpeg_header
from simclr_dist.data.rendering.numba_ import views_of_row
from simclr_dist.data.sources.beton.ffcv_library import crc32_of_zlib
from simclr_dist.data.sources.beton.ffcv_source import FfcvSource
from simclr_dist.data.sources.beton.format import JPEG, refused
from simclr_dist.data.sources.orientation import jpeg_orientation
from simclr_dist.data.views.draws import ViewParameters
from simclr_dist.data.views.geometry import blur_kernel_size
from simclr_dist.data.views.groups import DrawnGroup, draw_groups

AHEAD = 2
"""Batches that are made and not yet asked for; one more is in the making."""
_POLL_SECONDS = 0.2
_DONE, _DAMAGED, _REFUSED, _MAY_BE_TURNED = range(4)
"""What became of an image: its views are made; it is not what was written; ffcv's decoder refuses it; its EXIF is to be
read."""


class _GroupForm(NamedTuple):
    """What is compiled into the loop of a group of views."""

    first: int
    """Number of its first view, over all groups."""
    taps: int
    affine: bool
    bicubic: bool


class ViewsOfImages(SimpleRGBImageDecoder):  # type: ignore[misc]
    """ffcv's operation that decodes each image once and renders all its views of all groups.

    It takes its memory from :class:`StepIterator`: uint8 (images,) for what became of each, uint32 (images,) for the
    checksums to expect, what was drawn, and one array of views for each group.
    """

    def __init__(self, groups: Sequence[DrawnGroup], *, colors: bool) -> None:
        super().__init__()
        forms, first = [], 0
        for group in groups:
            affine, bicubic = group.color_form == "affine", group.interpolation == "bicubic"
            forms.append(_GroupForm(first, blur_kernel_size(group.side), affine, bicubic))
            first += len(group.parameters)
        self.forms, self.colors = tuple(forms), colors

    def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, None]:
        return replace(previous_state, jit_mode=True, shape=(1,), dtype=np.dtype("u1")), None

    def generate_code(self) -> Callable[..., Any]:
        read, decode_jpeg, copy = self.memory_read, Compiler.compile(imdecode), Compiler.compile(memcpy)
        rows, crc32 = Compiler.get_iterator(), crc32_of_zlib()
        forms, colored = self.forms, self.colors

        def decode(samples, memory, metadata, storage):  # type: ignore[no-untyped-def]
            became, expected, parameters, views = memory
            for row in rows(len(samples)):
                image = metadata[samples[row]]
                payload = read(image["data_ptr"], storage)
                height, width = np.int64(image["height"]), np.int64(image["width"])
                pixels = np.empty((height, width, 3), np.uint8)
                if crc32(0, payload.ctypes.data, len(payload)) != expected[row]:
                    became[row] = _DAMAGED
                    continue
                if image["mode"] == JPEG:
                    found_height, found_width, may_be_turned = jpeg_header(payload)
                    if may_be_turned:
                        became[row] = _MAY_BE_TURNED
                    if (
                        found_height != height
                        or found_width != width
                        or decode_jpeg(payload, pixels, height, width, height, width, 0, 0, 1, 1, False, False) != 0
                    ):
                        became[row] = _REFUSED
                        continue
                else:
                    copy(payload, pixels)
                for group in range(len(forms)):
                    first, taps, affine, bicubic = forms[group]
                    views_of_row(pixels, row, parameters, first, taps, affine, bicubic, colored, views[group])
            return became

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode


def build_loader(batches: ViewBatches, threads: int) -> tuple[Loader, int]:
    """ffcv's loader of the file of ``batches``, and the number of the operation that makes its views.

    It compiles what it can before the first batch, and sets the threads of torch and of numba.
    """
    source = batches.source
    assert isinstance(source, FfcvSource)
    names = {name: isinstance(field, RGBImageField) for name, field in Reader(str(source.path)).handlers.items()}
    image = next(name for name, is_image in names.items() if is_image)
    operation = ViewsOfImages(_one_drawn(batches), colors=batches.colors)
    with type_of_flat_arrays_kept():
        loader = Loader(
            str(source.path),
            batch_size=batches.order.global_batch_images // batches.processes,
            num_workers=threads,  # the default counts the cores of the machine, not those that the process may use
            os_cache=True,
            order=OrderOption.SEQUENTIAL,
            seed=0,  # else one is drawn from numpy's global generator
            pipelines={name: [operation] if name == image else None for name in names},
            batches_ahead=AHEAD,
        )
    return loader, loader.graph.leaf_nodes[image].id


def _one_drawn(batches: ViewBatches) -> list[DrawnGroup]:
    return draw_groups(batches.recipe, 0, np.zeros(1, dtype=np.int64))


class StepIterator(EpochIterator):  # type: ignore[misc]
    """ffcv's thread over steps of a run, whatever their epochs: the order is computed for one step at a time.

    ffcv cuts the order of an epoch into batches and reuses its memory for them. Here the steps are the batches, and
    each has memory of its own. What is raised in the thread is handed out by :meth:`next_within`.
    """

    def __init__(self, loader: Loader, node: int, batches: ViewBatches, steps: Sequence[int], pin_memory: bool) -> None:
        self._node, self._batches, self._steps, self._pins = node, batches, steps, pin_memory
        self._device = torch.cuda.current_device() if pin_memory else None
        super().__init__(loader, [])  # starts the thread

    def run(self) -> None:
        """Make the batches, in ffcv's thread."""
        try:
            if self.loader.num_workers > 1:
                numba.set_num_threads(self.loader.num_workers)  # of this thread alone; torch's are the trainer's
            if self._device is not None:  # a new thread begins with the first GPU, and would take memory of it
                torch.cuda.set_device(self._device)
            for step in self._steps:
                if not self._handed_over(self._made(step)):
                    return
        except BaseException as error:  # raised in whoever waits for the batch
            self._handed_over(error)
        else:
            self._handed_over(None)

    def next_within(self, seconds: float, is_stopped: Callable[[], object]) -> Batch | None:
        """The next batch; None when all are done, or when the run stops before it is there.

        Raises:
            TimeoutError: it did not come in time.
            BaseException: what its making raised.
        """
        until = time.monotonic() + seconds
        while True:
            try:
                made = self.output_queue.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if is_stopped():
                    return None
                if time.monotonic() > until:
                    raise TimeoutError from None
                continue
            if isinstance(made, BaseException):
                raise made
            assert made is None or isinstance(made, Batch)
            return made

    def close(self, seconds: float = 30.0) -> None:
        """End the thread once the batch that it is making is made; one that stands still longer is left to itself."""
        self.terminate_event.set()
        if self.is_alive():
            self.join(seconds)
        super().close()

    def _handed_over(self, made: object) -> bool:
        while not self.terminate_event.is_set():
            try:
                self.output_queue.put(made, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def _made(self, step: int) -> Batch:
        batches, source = self._batches, self._batches.source
        assert isinstance(source, FfcvSource)
        if os.stat(source.path).st_size != source.table.file_bytes:  # read behind its end, a map kills the process
            raise refused(source.path, "another file has taken its place since it was checked")
        epoch, samples = batches.order.epoch(step), batches.samples(step)
        groups = draw_groups(batches.recipe, epoch, samples)
        views = {group.name: self._new_views(len(samples), group) for group in groups}
        became = np.zeros(len(samples), dtype=np.uint8)
        memory = (became, source.crcs[samples], _drawn_arrays(groups), tuple(each.numpy() for each in views.values()))
        # As ffcv keeps its own: a slot for each batch in the making, of which there is one.
        self.memory_allocations["operation"][self._node] = _in_one_slot(memory)
        self.run_pipeline(0, samples, 0, None)
        broken: list[tuple[int, str]] = []
        for row in np.flatnonzero(became):
            if became[row] == _DAMAGED:
                source.refuse_damaged(int(samples[row]))
            if became[row] == _REFUSED or self._is_turned(source, int(samples[row])):
                self._make_again(int(row), samples, epoch, views, broken)
        if broken:
            groups = draw_groups(batches.recipe, epoch, samples)
        return batches.batch_of(epoch, samples, groups, views, broken)

    def _new_views(self, images: int, group: DrawnGroup) -> torch.Tensor:
        shape = (images, len(group.parameters), 3, group.side, group.side)
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self._pins)

    def _is_turned(self, source: FfcvSource, sample: int) -> bool:
        return source.rule.apply_orientation and jpeg_orientation(source.payload(sample)) != 1

    def _make_again(
        self,
        row: int,
        samples: NDArray[np.int64],
        epoch: int,
        views: dict[str, torch.Tensor],
        broken: list[tuple[int, str]],
    ) -> None:
        """The views of an image that is turned, or of the one that stands in for a broken one, as without ffcv."""
        samples[row], picture, _ = self._batches.read(int(samples[row]), epoch, broken)
        for group in draw_groups(self._batches.recipe, epoch, samples[row : row + 1]):
            views[group.name][row] = self._batches.rendered([picture], group)[0]


def _drawn_arrays(groups: list[DrawnGroup]) -> tuple[NDArray[Any], ...]:
    """As :func:`views_of_row` takes them."""
    drawn = [(group, each) for group in groups for each in group.parameters]
    arrays = [np.stack([getattr(each, field.name) for _, each in drawn], axis=1) for field in fields(ViewParameters)]
    mixes = np.zeros((*arrays[0].shape[:2], 3, 6))
    for number, (group, each) in enumerate(drawn):
        if group.color_form == "affine":
            mixes[:, number] = each.color_mixes
    return (*arrays, mixes)


def _in_one_slot(memory: Any) -> Any:
    return tuple(map(_in_one_slot, memory)) if isinstance(memory, tuple) else [memory]
