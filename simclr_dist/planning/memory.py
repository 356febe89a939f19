"""Memory and operations of a step at any number of images: traced where it matters, on a line in between.

At a fixed global batch both are affine in the images of a process: activations and operations grow with its images,
weights, gradients and optimizer state do not, and the loss has tiles of a fixed size. The peak is the highest of
several such lines (in the encoder, in the loss, in the update), so it is convex: the chord between the smallest and the
largest number that is asked for is never below it. Other traced numbers check it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from simclr_dist.config import Machine, Recipe
from simclr_dist.models.statistics_group import divide_batch_norm
from simclr_dist.planning.line import Line
from simclr_dist.planning.norm_traffic import with_chunks
from simclr_dist.planning.traced_step import StepTrace, traced_step

# Below it a line's offset would be fitted to rounding: the loss's tiles, for one, are then smaller than a tile.
_SMALLEST_FITTED = 16


@dataclass(frozen=True)
class Variant:
    """How a process takes its images through the encoder; the trajectory is the same."""

    recompute: str = "none"
    """machine.recompute."""
    images_per_chunk: int = 0
    """machine.images_per_chunk; 0: all at once."""

    def __str__(self) -> str:
        parts = [f"recompute={self.recompute}"] if self.recompute != "none" else []
        parts += [f"chunks of {self.images_per_chunk}"] if self.images_per_chunk else []
        return ", ".join(parts) or "as it is"


class StepMemory:
    """Predictions for a recipe on a kind of machine; steps are traced when they are first needed."""

    def __init__(self, recipe: Recipe, machine: Machine, images: int, shares: Sequence[int], exact: int) -> None:
        """``images``: of the data set.

        ``shares``: the numbers of images a process that will be asked for; ``exact``: the one that is traced.
        """
        self.recipe, self.images = recipe, images
        self.machine = replace(machine, images_per_chunk=0, device="cuda")
        self.shares, self.exact = sorted({*shares, exact}), exact
        self._traces: dict[tuple[int, str], StepTrace] = {}

    def regime(self, images: int) -> str:
        """Which batch norm ``images`` a process lead to: ``own`` (torch's), ``local`` groups or ``spans`` processes."""
        group = divide_batch_norm(
            self.recipe.batch_norm_group_images,
            self.recipe.global_batch_images,
            self.recipe.global_batch_images // images,
            make_groups=False,
        )
        if group.spans_processes:
            return "spans"
        return "own" if group.local_groups == 1 else "local"

    def trace(self, images: int, recompute: str) -> StepTrace:
        """The traced step of ``images`` a process, the global batch being the recipe's."""
        key = (images, recompute)
        if key not in self._traces:
            processes = self.recipe.global_batch_images // images
            machine = replace(self.machine, recompute=recompute)
            self._traces[key] = traced_step(self.recipe, machine, images, processes, self.images)
        return self._traces[key]

    def traces_alike(self, images: int, recompute: str) -> list[StepTrace]:
        """Traced steps with the collectives of ``images`` a process: of several processes and the same batch norm."""
        return [self.trace(n, recompute) for n in self._fitted_sizes(images, below=self.recipe.global_batch_images)]

    def peak_bytes(self, images: int, variant: Variant) -> float:
        """Highest sum of tensors in a step of ``images`` a process."""
        chunk = variant.images_per_chunk
        if chunk and chunk < images:
            traces = self._fitted(images, variant.recompute)
            held, resting = traces[0].held_bytes, traces[0].resting_bytes
            # The loss sees all images at once, while no chunk is in the encoder.
            loss = Line.fit([(t.local_images, t.loss_bytes) for t in traces])(images)
            kept = Line.fit([(t.local_images, t.kept_bytes) for t in traces])(chunk)
            in_chunk = self.peak_bytes(chunk, Variant(variant.recompute)) + (images - chunk) * held
            return max(in_chunk, resting + images * held + kept + loss)
        if images == self.exact or images in self._fitted_sizes(images):
            return self.trace(images, variant.recompute).peak_bytes
        return max(line(images) for line in self.lines(images, variant.recompute))

    def flops(self, images: int, variant: Variant) -> float:
        """Operations of a step of ``images`` a process."""
        chunk = variant.images_per_chunk
        if chunk and chunk < images:
            # The chunks go twice through the encoder, the first time without a way back.
            again = Line.fit([(t.local_images, t.embed_flops) for t in self._fitted(chunk, variant.recompute)])
            return images / chunk * (self.flops(chunk, Variant(variant.recompute)) + again(chunk))
        points = [(t.local_images, t.flops) for t in self._fitted(images, variant.recompute)]
        return Line.fit(points)(images)

    def norm_bytes(self, images: int, variant: Variant) -> float:
        """Bytes that batch norm moves in a step of ``images`` a process."""
        trace = self._fitted(images, variant.recompute)[0]
        moved = trace.norm_bytes / trace.local_images * images
        return with_chunks(moved) if 0 < variant.images_per_chunk < images else moved

    def lines(self, images: int, recompute: str) -> tuple[Line, Line]:
        """Peak bytes of the passes and of the update against images a process, for the batch norm of ``images``."""
        traces = self._fitted(images, recompute)
        return (
            Line.fit([(t.local_images, t.pass_bytes) for t in traces]),
            Line.fit([(t.local_images, t.update_bytes) for t in traces]),
        )

    def largest_that_fits(self, usable_bytes: float, recompute: str) -> int:
        """Images a process that fit at once; 0: none are known to."""
        lines = self.lines(self.exact, recompute)
        growing = [line for line in lines if line.slope > 0]
        # What does not grow with the images, the update say, must fit, too.
        if any(line.slope <= 0 and line.offset > usable_bytes for line in lines):
            return 0
        # Where a single number was traced nothing is known of others.
        largest = self.recipe.global_batch_images if growing else self.exact
        largest = max(0, min([largest, *(int((usable_bytes - line.offset) / line.slope) for line in growing)]))
        # A traced number may lie beside the line.
        too_many = [
            n for (n, mode), trace in self._traces.items() if mode == recompute and trace.peak_bytes > usable_bytes
        ]
        alike = [n for n in too_many if self.regime(n) == self.regime(self.exact)]
        return min([largest, *(n - 1 for n in alike)])

    @property
    def traced_modes(self) -> list[str]:
        """The kinds of recomputation that some prediction has needed."""
        return list(dict.fromkeys(mode for _, mode in self._traces))

    def check(self) -> list[tuple[int, str, float]]:
        """(images, recompute, distance from the line relative to the traced peak) of traces that made no line."""
        return [
            (n, mode, max(line(n) for line in self.lines(n, mode)) / trace.peak_bytes - 1)
            for (n, mode), trace in self._traces.items()
            if n not in self._fitted_sizes(n)
        ]

    def _fitted(self, images: int, recompute: str) -> list[StepTrace]:
        return [self.trace(n, recompute) for n in self._fitted_sizes(images)]

    def _fitted_sizes(self, images: int, below: int | None = None) -> list[int]:
        """The smallest and the largest share (``below`` a number) with the batch norm of ``images``."""
        shares = [n for n in self.shares if below is None or n < below]
        alike = [n for n in shares if self.regime(n) == self.regime(images)] or [images]
        large = [n for n in alike if n >= _SMALLEST_FITTED]
        large = large if len(large) > 1 else alike
        return sorted({large[0], large[-1]})
