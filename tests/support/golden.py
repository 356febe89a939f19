"""Values computed by the authors' own code (tests/golden/README.md), and a toy encoder as theirs."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simclr_dist.config import Recipe
from simclr_dist.methods.parts import Parts

FOLDER = Path(__file__).parents[1] / "golden"


def golden(name: str) -> dict[str, Any]:
    """The records of a file."""
    records: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return records


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class ToyEncoder(nn.Module):
    """Linear, batch norm, ReLU: rows (n, 6) to features (n, output_dim), under the records' names."""

    def __init__(self, make: Parts, output_dim: int) -> None:
        super().__init__()
        self.output_dim = output_dim
        self.body, self.bn = nn.Linear(6, output_dim), make.norm(output_dim)

    def forward(self, rows: Tensor) -> Tensor:
        features: Tensor = self.bn(self.body(rows)).relu()
        return features

    def maps_only(self) -> None:
        """As Encoder's."""


class ToyParts(Parts):
    """Makes toy encoders in place of the recipe's."""

    features = 8

    def encoder(self) -> Any:
        return ToyEncoder(self, self.features)


def toy_recipe(images: int, group: int = 0) -> Recipe:
    return Recipe(global_batch_images=images, batch_norm_group_images=group)
