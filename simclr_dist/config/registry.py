"""Methods by name, and what stands outside this project under ``package.module:Name``.

A table of names, not of imports: the config is below everything that it names, and what a name stands for is loaded
when it is asked for.
"""

import importlib
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Protocol

from simclr_dist.config.method import MethodKeys
from simclr_dist.config.method_class import check_method_class
from simclr_dist.config.metric import Metric
from simclr_dist.config.views import ViewGroup
from simclr_dist.errors import UserError, first_line, nearest

_METHOD = "recipe.method.name"
METHODS = {
    "simclr": "simclr_dist.methods.simclr:SimCLR",
    "supcon": "simclr_dist.methods.supcon:SupCon",
    "moco": "simclr_dist.methods.moco:MoCo",
    "moco_v3": "simclr_dist.methods.moco_v3:MoCoV3",
    "barlow_twins": "simclr_dist.methods.barlow_twins:BarlowTwins",
    "byol": "simclr_dist.methods.byol:BYOL",
    "simsiam": "simclr_dist.methods.simsiam:SimSiam",
    "vicreg": "simclr_dist.methods.vicreg:VICReg",
    "memory_bank": "simclr_dist.methods.memory_bank:MemoryBank",
    "swav": "simclr_dist.methods.swav:SwAV",
    "dino": "simclr_dist.methods.dino:DINO",
    "densecl": "simclr_dist.methods.densecl:DenseCL",
    "pixel_contrast": "simclr_dist.methods.pixel_contrast:PixelContrast",
    "rotation": "simclr_dist.methods.rotation:Rotation",
    "relative_patch": "simclr_dist.methods.relative_patch:RelativePatch",
    "jigsaw": "simclr_dist.methods.jigsaw:Jigsaw",
    "label_augmentation": "simclr_dist.methods.label_augmentation:LabelAugmentation",
    "colorization": "simclr_dist.methods.colorization:Colorization",
    "split_brain": "simclr_dist.methods.split_brain:SplitBrain",
    "inpainting": "simclr_dist.methods.inpainting:Inpainting",
    "temporal_contrast": "simclr_dist.methods.temporal_contrast:TemporalContrast",
}
"""Name -> where its class is. A new method of this project is one file and one line here."""


class MethodClass(Protocol):
    """What the config asks of a method's class (:class:`simclr_dist.methods.base.Method`)."""

    Config: ClassVar[type[MethodKeys]]
    METRICS: ClassVar[Mapping[str, Metric]]
    needs: ClassVar[frozenset[str]]
    TAKES: ClassVar[str]
    HEAD: ClassVar[str]
    PICTURES: ClassVar[str]

    @classmethod
    def views(cls, config: Any) -> dict[str, ViewGroup]: ...

    @classmethod
    def check(cls, recipe: Any) -> None: ...

    @classmethod
    def sides(cls, recipe: Any) -> list[int]: ...

    @classmethod
    def most_classes(cls, config: Any) -> int | None: ...

    @classmethod
    def repels_beyond(cls, config: Any) -> int | None: ...

    @classmethod
    def pictures(cls, recipe: Any, batch: Any) -> Any: ...


@cache
def method_class(name: str) -> MethodClass:
    """The class of a method of this project by its name, or of any other by ``package.module:Class``.

    Raises:
        UserError: there is none, it is no method, or what it says of itself is not what it must be; what is wrong.
    """
    found = load(_METHOD, name, METHODS)
    keys = getattr(found, "Config", None)
    has_all = all(hasattr(found, each) for each in ("embed", "METRICS", "needs", "views", "check", "sides"))
    if not (isinstance(found, type) and isinstance(keys, type) and has_all):
        raise UserError(
            f"{_METHOD}: '{name}' is no method: it must be a class made from simclr_dist.methods.base.Method"
        )
    check_method_class(name, found)
    return found  # type: ignore[return-value]


def method_keys(name: str) -> MethodKeys:
    """The keys of a method with their defaults."""
    return method_class(name).Config(name=name)


def load(key: str, name: str, known: Mapping[str, str]) -> Any:
    """What a name of a table stands for, or what ``package.module:Name`` is.

    Raises:
        UserError: naming ``key``: neither in the table nor of that form, or it cannot be imported.
    """
    module, colon, attribute = known.get(name, name).partition(":")
    if not colon or not module or not attribute:
        close = nearest(name, list(known))
        raise UserError(f"{key}: '{name}' is not one of {', '.join(known)} and no package.module:Name{close}")
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{key}: '{name}' cannot be imported: {first_line(error)}; install it, or put its folder on PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:  # whatever somebody's module does when it is imported
        raise UserError(f"{key}: importing {module} fails: {type(error).__name__}: {first_line(error)}") from error
    if not hasattr(imported, attribute):
        raise UserError(f"{key}: {module} has no '{attribute}'; look at the part behind the colon")
    return getattr(imported, attribute)
