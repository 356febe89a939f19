"""Half precision of the kernels, for pretraining and for classifiers alike: the weights stay in float32."""

from contextlib import AbstractContextManager, nullcontext

import torch

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def half_precision(device: torch.device, half: torch.dtype | None) -> AbstractContextManager[object]:
    """Inside, kernels that can work in ``half`` do (torch's autocast); None: everything stays as it is."""
    return torch.autocast(device.type, half) if half else nullcontext()
