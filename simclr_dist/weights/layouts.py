"""How other projects name a ResNet's weights: found in their files by these names, and renamed to torchvision's.

Looked up in the projects' sources: solo-learn (methods/base.py), VISSL (models/trunks/resnext.py), lightly
(models/resnet.py), tonylins/simclr-converter and Separius/SimCLRv2-Pytorch (convert.py, resnet.py).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

_BLOCK = r"\d+\.(?:conv[123]|bn[123]|(?:downsample|shortcut)\.[01])"
_TENSOR = r"weight|bias|running_mean|running_var|num_batches_tracked"
# Separius' block: a Sequential of convolutions and batch norms, and a projection beside it.
_GOOGLE_V2_PARTS = {
    "projection.shortcut": "downsample.0",
    "projection.bn.0": "downsample.1",
    **{f"net.{2 * number}": f"conv{number + 1}" for number in range(3)},
    **{f"net.{2 * number + 1}.0": f"bn{number + 1}" for number in range(3)},
}
# Second copies that contrastive methods keep of their encoder: the one that gradients train is wanted.
_SECOND_COPIES = re.compile(r"(^|[._])(encoder_k|key_encoder|momentum|teacher|target|ema|optimizer)", re.IGNORECASE)

_FEWEST = 6
"""Keys of a layout that are no coincidence."""


@dataclass(frozen=True)
class Layout:
    """One way of naming."""

    name: str
    part: re.Pattern[str]
    """A key: any prefix, then ``part`` and ``tensor``."""
    own: re.Pattern[str]
    """What belongs to the network when it follows the prefix, known or not."""
    renamed: Callable[[str], str]
    """torchvision's name of a part."""


def _layout(name: str, part: str, own: str, renamed: Callable[[str], str]) -> Layout:
    pattern = re.compile(rf"(?P<prefix>(?:.*?\.)??)(?P<part>{part})\.(?P<tensor>{_TENSOR})")
    return Layout(name, pattern, re.compile(own), renamed)


def _from_children(part: str) -> str:
    number, dot, rest = part.partition(".")
    return f"layer{int(number) - 3}{dot}{rest}" if dot else {"0": "conv1", "1": "bn1"}[number]


def _from_google_v2(part: str) -> str:
    if part in ("net.0.0", "net.0.1.0"):
        return "conv1" if part == "net.0.0" else "bn1"
    _, stage, _, block, rest = part.split(".", 4)
    return f"layer{stage}.{block}.{_GOOGLE_V2_PARTS[rest]}"


_V2 = "|".join(re.escape(part) for part in _GOOGLE_V2_PARTS)
LAYOUTS = (
    _layout("torchvision's", rf"conv1|bn1|layer[1-4]\.{_BLOCK}", r"(conv|bn|layer)\d", lambda part: part),
    _layout("a Sequential of torchvision's children", rf"0|1|[4-7]\.{_BLOCK}", r"\d+\.", _from_children),
    _layout("SimCLRv2-Pytorch's", rf"net\.0\.(?:0|1\.0)|net\.[1-4]\.blocks\.\d+\.(?:{_V2})", r"net\.", _from_google_v2),
)


@dataclass(frozen=True)
class Found:
    """A network in a file: its weights under torchvision's names."""

    layout: Layout
    prefix: str
    state: dict[str, Tensor]

    @property
    def whole(self) -> bool:
        """Whether it has a beginning and an end."""
        return {"conv1.weight", "layer4.0.conv1.weight"} <= self.state.keys()


def find_network(tensors: Mapping[str, Tensor], prefix: str | None = None) -> Found:
    """The ResNet among tensors with dotted names, in whatever layout and under whatever prefix.

    Raises:
        ValueError: there is none, it is incomplete or has parts that a ResNet has not, or there are several and
            ``prefix`` does not choose.
    """
    everything = _networks(tensors)
    networks = [found for found in everything if prefix is None or _is_prefix(prefix, found.prefix)]
    whole = [found for found in networks if found.whole]
    wanted = first_copies([found.prefix for found in whole])
    trained = [found for found in whole if found.prefix in wanted]
    if len(trained) > 1:
        raise ValueError(several_networks([found.prefix for found in trained]))
    if not trained and prefix is not None and (others := [found for found in everything if found.whole]):
        there = ", ".join(f"'{found.prefix}'" for found in others)
        raise ValueError(f"no network under '{prefix}'; there are {there}")
    if not trained:
        raise ValueError(_nearest(networks, list(tensors)))
    found = trained[0]
    odd = [key for key in tensors if _is_odd(key, found)]
    if odd:
        raise ValueError(f"'{odd[0]}' is no part of a plain ResNet, and {len(odd)} such keys are in it")
    return found


def first_copies(prefixes: Sequence[str]) -> list[str]:
    """Of the prefixes of whole networks those of no second copy; all, where there are only such."""
    return [prefix for prefix in prefixes if not _SECOND_COPIES.search(prefix)] or list(prefixes)


def several_networks(prefixes: Sequence[str]) -> str:
    """What a user is told of a file from which none can be chosen."""
    names = ", ".join(f"'{prefix}'" for prefix in prefixes)
    return f"there are {len(prefixes)} networks in it, under {names}; choose one with --prefix"


def _networks(tensors: Mapping[str, Tensor]) -> list[Found]:
    groups: dict[tuple[Layout, str], dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        for layout in LAYOUTS:
            match = layout.part.fullmatch(key)
            if match:
                part = layout.renamed(match["part"]).replace("shortcut", "downsample")
                groups.setdefault((layout, match["prefix"]), {})[f"{part}.{match['tensor']}"] = tensor
    return [Found(layout, prefix, state) for (layout, prefix), state in groups.items()]


def _is_prefix(wanted: str, prefix: str) -> bool:
    return prefix.removesuffix(".") == wanted.removesuffix(".") or prefix.endswith(f".{wanted.removesuffix('.')}.")


def _is_odd(key: str, found: Found) -> bool:
    if not key.startswith(found.prefix) or not found.layout.own.match(key[len(found.prefix) :]):
        return False
    match = found.layout.part.fullmatch(key)
    return match is None or match["prefix"] != found.prefix


def _nearest(networks: list[Found], keys: list[str]) -> str:
    """What is the matter, with the layout that most of the keys fit."""
    if any("mixing_conv" in key for key in keys):
        return "its blocks have selective kernels (sk1), which no encoder here has; take the sk0 conversion"
    if any(re.search(r"(^|\.)2\.0\.(conv1\.weight|shortcut)", key) for key in keys):
        return (
            "a Sequential of the children of lightly's own ResNet: it has no ReLU after its stem, so that no plain "
            "ResNet computes the same"
        )
    nearest = max(networks, key=lambda found: len(found.state), default=None)
    if nearest is None or len(nearest.state) < _FEWEST:
        begin = ", ".join(f"'{key}'" for key in keys[:3]) or "none"
        return f"no ResNet in it: its tensors are {begin}{' ...' if len(keys) > 3 else ''}"
    missing = [key for key in ("conv1.weight", "layer4.0.conv1.weight") if key not in nearest.state]
    return (
        f"nearest is {nearest.layout.name} layout{f' under {nearest.prefix!r}' if nearest.prefix else ''}, where "
        f"{' and '.join(missing)} is missing"
    )
