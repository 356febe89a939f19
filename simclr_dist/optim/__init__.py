"""Optimizers by name, and the learning rate as a function of the step."""

from simclr_dist.optim.factory import make_optimizer
from simclr_dist.optim.lars import LARS
from simclr_dist.optim.rates import parameter_groups
from simclr_dist.optim.schedule import Schedule

__all__ = ["LARS", "Schedule", "make_optimizer", "parameter_groups"]
