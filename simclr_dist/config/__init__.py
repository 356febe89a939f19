"""The config in two halves: ``Recipe`` says what is computed, ``Machine`` says how."""

from simclr_dist.config.loading import load_config, to_dict, to_yaml
from simclr_dist.config.schema import Config, Machine, Recipe

__all__ = ["Config", "Machine", "Recipe", "load_config", "to_dict", "to_yaml"]
