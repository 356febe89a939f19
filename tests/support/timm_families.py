"""The smallest models of twelve of timm's families that a CPU takes in float64, with what they drop by chance."""

from pathlib import Path
from typing import NamedTuple

from simclr_dist.config import Config
from tests.support.processes import tiny_config


class Family(NamedTuple):
    """A model and its options."""

    name: str
    options: dict[str, object]
    recomputes: bool = True
    """Whether timm has a switch for it."""


_VIT = {"img_size": 32, "patch_size": 16, "depth": 2, "embed_dim": 24, "num_heads": 2, "drop_path_rate": 0.3}
_OPEN = {"zero_init_last": False, "drop_path_rate": 0.3}  # closed branches would hide what they drop
FAMILIES = {
    "ResNet": Family("resnet18", {"channels": [8, 8, 16, 16], **_OPEN}),
    "ResNetV2": Family("resnetv2_50", {"layers": [1, 1, 1, 1], "channels": [16, 16, 32, 32], "stem_chs": 8, **_OPEN}),
    "ConvNeXt": Family(
        "convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16], "ls_init_value": 1.0, "drop_path_rate": 0.3}
    ),
    "ViT": Family(
        "vit_tiny_patch16_224",
        {**_VIT, "proj_drop_rate": 0.1, "attn_drop_rate": 0.1, "pos_drop_rate": 0.1, "patch_drop_rate": 0.25},
    ),
    "DeiT": Family("deit_tiny_distilled_patch16_224", _VIT),
    "Swin": Family(
        "swin_tiny_patch4_window7_224",
        {
            "img_size": 32, "window_size": 2, "depths": [1, 2], "embed_dim": 12, "num_heads": [1, 2],
            "drop_path_rate": 0.3, "attn_drop_rate": 0.1,
        },
    ),
    "EfficientNet": Family("tinynet_e", {"drop_path_rate": 0.3}),
    "RegNet": Family("regnety_002", {"depth": 6, "w0": 8, "wa": 8.0, "wm": 2.0, "group_size": 4, **_OPEN}),
    "MobileNet": Family("mobilenetv3_small_050", {"drop_path_rate": 0.3}),
    "NFNet": Family("test_nfnet", {"drop_path_rate": 0.3}),
    "VGG": Family("vgg11_bn", {"mlp_ratio": 0.01}, recomputes=False),
    "DenseNet": Family("densenet121", {"growth_rate": 4, "block_config": [2, 2, 2, 2]}),
}  # fmt: skip


def family_config(family: str, folder: Path, *overrides: str) -> Config:
    """A tiny recipe of one of them, in float64."""
    name, options, _ = FAMILIES[family]
    return tiny_config(
        folder, f"recipe.encoder.name=timm/{name}", f"recipe.encoder.options={options}", "recipe.data.image_size=32",
        "recipe.method.projection.hidden_dim=16", "machine.precision=float64", *overrides,
    )  # fmt: skip
