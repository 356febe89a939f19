"""timm's models with this project's batch norms and drops in the place of theirs."""

from typing import Any

from torch import Tensor, nn

from simclr_dist.errors import UserError
from simclr_dist.models.batch_norm import GroupedBatchNorm
from simclr_dist.models.drops import Dropout, DropPath, Drops, PatchDropout
from simclr_dist.models.statistics_group import StatisticsGroup

_DROPOUTS = {nn.Dropout: False, nn.Dropout1d: True, nn.Dropout2d: True, nn.Dropout3d: True}


class GroupedBatchNormAct(GroupedBatchNorm):
    """Grouped batch norm, then what timm's BatchNormAct2d has after its own: ``drop``, and the activation ``act``."""

    def __init__(self, *arguments: Any, drop: nn.Module, act: nn.Module, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.drop, self.act = drop, act

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # its own activation, and nothing added
        """As timm's."""
        if isinstance(self.act, nn.ReLU) and isinstance(self.drop, nn.Identity):
            return super().forward(x, rectified=True)
        made: Tensor = self.act(self.drop(super().forward(x)))
        return made


def with_grouped_norms(model: nn.Module, statistics: StatisticsGroup | None) -> None:
    """Replace every batch norm within by one over the recipe's groups, with its weights: timm's convert_sync_batchnorm
    walks them so.

    Raises:
        UserError: a batch norm of a kind that is not known, or one without running statistics; it is named.
    """
    from timm.layers.norm_act import BatchNormAct2d

    known = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d)
    for name, norm in list(model.named_modules()):
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            continue
        if type(norm) not in known:
            raise refusal(name, f"{type(norm).__name__} is a batch norm of a kind that is not known here")
        if norm.running_mean is None or norm.momentum is None:
            raise refusal(name, "a batch norm without running statistics, or with their plain mean")
        keys: dict[str, Any] = {"affine": norm.affine, "statistics": statistics}
        made: GroupedBatchNorm
        if isinstance(norm, BatchNormAct2d):
            keys |= {"drop": norm.drop, "act": norm.act}
            made = GroupedBatchNormAct(norm.num_features, norm.eps, norm.momentum, **keys)
        else:
            made = GroupedBatchNorm(norm.num_features, norm.eps, norm.momentum, **keys)
        made._parameters.update(norm._parameters)
        made._buffers.update(norm._buffers)
        _put(model, name, made)


def with_drawn_drops(model: nn.Module, drops: Drops) -> int:
    """Replace what drops by chance by layers that draw by ``drops``; how many there are.

    Attention that would drop within torch's fused kernel takes timm's plain one, which calls its layer.

    Raises:
        UserError: a layer drops by what it sees of other images (DropBlock); it is named.
    """
    from timm.layers.drop import DropBlock2d
    from timm.layers.drop import DropPath as TimmDropPath
    from timm.layers.patch_dropout import PatchDropout as TimmPatchDropout
    from timm.layers.patch_dropout import PatchDropoutWithIndices

    place = 0
    for name, layer in list(model.named_modules()):
        made: nn.Module | None = None
        if isinstance(layer, DropBlock2d) and layer.drop_prob:
            raise refusal(name, "DropBlock scales by what all images of a process keep; set drop_block_rate to 0")
        if isinstance(layer, TimmDropPath) and layer.drop_prob:
            made = DropPath(drops, place, layer.drop_prob, layer.scale_by_keep)
        elif type(layer) in _DROPOUTS and layer.p:
            made = Dropout(drops, place, layer.p, _DROPOUTS[type(layer)])
        elif isinstance(layer, TimmPatchDropout | PatchDropoutWithIndices) and layer.prob:
            with_indices = isinstance(layer, PatchDropoutWithIndices)
            made = PatchDropout(drops, place, layer.prob, layer.num_prefix_tokens, layer.ordered, with_indices)
        if made is not None:
            _put(model, name, made)
            place += 1
    for layer in model.modules():
        attention: Any = layer
        if getattr(layer, "fused_attn", False) and isinstance(getattr(layer, "attn_drop", None), Dropout):
            attention.fused_attn = False
    return place


def refusal(layer: str, why: str) -> UserError:
    """Of a model that cannot be computed alike on any number of processes."""
    return UserError(f"recipe.encoder: its layer {layer}: {why}")


def _put(model: nn.Module, name: str, made: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, made)
