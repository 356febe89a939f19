"""The learning rate as a function of the step: applied, never stepped, so that a resume cannot get it wrong."""

import math
from dataclasses import dataclass

from simclr_dist.config import Recipe
from simclr_dist.data.loading.order import SampleOrder

POLY_POWER = 0.9


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear warm-up from 0, then a cosine, by default to 0 as Google's ``WarmUpAndCosineDecay``, or steps."""

    peak: float
    warmup_steps: int
    total_steps: int
    steps_per_epoch: int = 1
    decay: str = "cosine"
    """recipe.optimizer.learning_rate_decay, or ``poly``: in proportion to (1 - step / total) ** 0.9 (Chen et al. 2017,
    arXiv 1706.05587, section 4)."""
    final_share: float = 0.0
    """Where the cosine ends, of the peak."""

    def __call__(self, step: int) -> float:
        """The learning rate of step ``step``, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * step / self.warmup_steps
        if self.decay == "steps":
            return self.peak / 10.0 ** sum(10 * step >= tenths * self.total_steps for tenths in (6, 8))
        if self.decay == "cosine_by_epoch":
            step = max(self.warmup_steps, step - step % self.steps_per_epoch)
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        if self.decay == "poly":
            return self.peak * math.pow(max(0.0, 1.0 - done), POLY_POWER)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return self.peak * (cosine + self.final_share * (1 - cosine))


def peak_learning_rate(base: float, scaling: str, global_batch_images: int) -> float:
    """The rate after warm-up: base * B / 256 (linear), base * sqrt(B) (sqrt; paper, appendix B.1) or base (none).

    Raises:
        ValueError: another ``scaling``.
    """
    factors = {"linear": global_batch_images / 256, "sqrt": math.sqrt(global_batch_images), "none": 1.0}
    if scaling not in factors:
        raise ValueError(f"unknown learning rate scaling '{scaling}'; known: {', '.join(factors)}")
    return base * factors[scaling]


def build_schedule(recipe: Recipe, order: SampleOrder) -> Schedule:
    """The learning rate of every step of the run."""
    rate = recipe.optimizer
    return Schedule(
        peak=peak_learning_rate(rate.base_learning_rate, rate.learning_rate_scaling, recipe.global_batch_images),
        warmup_steps=round(recipe.warmup_epochs * order.steps_per_epoch),
        total_steps=recipe.epochs * order.steps_per_epoch,
        steps_per_epoch=order.steps_per_epoch,
        decay=rate.learning_rate_decay,
        final_share=rate.final_learning_rate_share,
    )
