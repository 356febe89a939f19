"""Gradient scaling, of runs whose precision may change between two starts."""

from typing import Any

import torch


class Scaler(torch.amp.GradScaler):
    """Takes the empty state of a run in another precision than float16, too: its scale stays as it is."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            super().load_state_dict(state_dict)
