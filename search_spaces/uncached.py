"""timm's attentions without the cache of their gathered biases.

timm's keep in evaluation what they gathered at the first call, until `train()` is called. A moving average, which is
never trained itself, would be tested with the biases of its first test, slices with those of others, and what is pruned
with heads that are gone.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from timm.models import efficientformer, efficientformer_v2, efficientvit_msra, levit, tiny_vit
from torch import Tensor, nn


class _Uncached:
    attention_biases: nn.Parameter
    attention_bias_idxs: Tensor

    def get_attention_biases(self, device: torch.device) -> Tensor:
        return self.attention_biases[:, self.attention_bias_idxs]


class EfficientFormerAttention(_Uncached, efficientformer.Attention):
    pass


class Attention2d(_Uncached, efficientformer_v2.Attention2d):
    pass


class Attention2dDownsample(_Uncached, efficientformer_v2.Attention2dDownsample):
    pass


class CascadedGroupAttention(_Uncached, efficientvit_msra.CascadedGroupAttention):
    pass


class LevitAttention(_Uncached, levit.Attention):
    pass


class LevitAttentionDownsample(_Uncached, levit.AttentionDownsample):
    pass


class TinyVitAttention(_Uncached, tiny_vit.Attention):
    pass


_OURS: dict[type, type] = {ours.__bases__[1]: ours for ours in _Uncached.__subclasses__()}
_Model = TypeVar("_Model", bound=nn.Module)


def uncached(model: _Model) -> _Model:
    """The model, whose attentions gather their biases at each call from now on."""
    for part in model.modules():
        part.__class__ = _OURS.get(type(part), type(part))
    return model
