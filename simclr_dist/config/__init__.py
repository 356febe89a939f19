"""The config: ``Recipe`` says what is computed, ``Machine`` how, ``health`` what the run is expected to look like."""

from simclr_dist.config.loading import load_config, to_dict, to_yaml
from simclr_dist.config.machine import Machine
from simclr_dist.config.recipe import Recipe
from simclr_dist.config.schema import Config

__all__ = ["Config", "Machine", "Recipe", "load_config", "to_dict", "to_yaml"]
