"""A convolutional network of timm in torch's own layers, and back: FastNAS knows no others.

timm's `BatchNormAct2d` and `Conv2dSame` have forward passes of their own, and modelopt takes such a layer, and all that
depends on its channels, to be of one size: of EfficientNet-Lite0 as timm has it, FastNAS finds nothing to prune. Nor
does it know what flattening does with channels, so the classifier becomes a convolution in front of it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame, SelectAdaptivePool2d
from timm.layers.padding import pad_same_arg
from torch import Tensor, nn

from search_spaces import UserError


@torch.no_grad()
def plain(model: nn.Module, image: Tensor) -> nn.Module:
    """A copy in evaluation mode that computes the same, of images of this size.

    Raises:
        UserError: it does not, since the network has other layers than those that are replaced here.
    """
    found: Any = copy.deepcopy(model).eval()
    sizes = _input_sizes(found, image)
    classifier = found.get_classifier()
    for name, layer in list(found.named_modules()):
        if layer is classifier:
            found.set_submodule(name, _as_convolution(layer))
        elif name in sizes:
            found.set_submodule(name, _with_padding(layer, sizes[name]))
        elif isinstance(layer, BatchNormAct2d):
            found.set_submodule(name, _with_activation(layer))
        elif isinstance(layer, SelectAdaptivePool2d) and layer.pool_type in ("avg", "fast"):
            found.set_submodule(name, nn.AdaptiveAvgPool2d(1))
    _check_same(found, model, image)
    return found.eval()


def original_names(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state dict of what `plain` made of the model, or of a part of it, as the model's own."""
    named = {_original(name, model): tensor for name, tensor in tensors.items()}
    return {name: named[name].flatten(1) if t.dim() == 2 else named[name] for name, t in model.state_dict().items()}


def _original(name: str, model: nn.Module) -> str:
    """Without the place in what has replaced a layer: `bn1.weight` of `bn1.0.weight`."""
    return name if name in model.state_dict() else re.sub(r"\.\d\.(\w+)$", r".\1", name)


def _input_sizes(model: nn.Module, image: Tensor) -> dict[str, list[int]]:
    """Height and width of what goes into each convolution that pads by these."""
    sizes: dict[str, list[int]] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, x, name=name: sizes.update({name: list(x[0].shape[-2:])}))
        for name, layer in model.named_modules()
        if isinstance(layer, Conv2dSame)
    ]
    model(image)
    for hook in hooks:
        hook.remove()
    return sizes


def _with_padding(layer: nn.Conv2d, size: list[int]) -> nn.Module:
    padding = pad_same_arg(size, list(layer.kernel_size), list(layer.stride), list(layer.dilation))
    shape = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, 0, layer.dilation, layer.groups)
    own = nn.Conv2d(*shape, bias=layer.bias is not None)  # type: ignore[arg-type]
    own.load_state_dict(layer.state_dict())
    return nn.Sequential(nn.ZeroPad2d(tuple(padding)), own)  # type: ignore[arg-type]


def _with_activation(layer: BatchNormAct2d) -> nn.Module:
    own = nn.BatchNorm2d(layer.num_features, layer.eps, layer.momentum)
    own.load_state_dict(layer.state_dict())
    return nn.Sequential(own, layer.act)


def _as_convolution(layer: nn.Linear) -> nn.Module:
    own = nn.Conv2d(layer.in_features, layer.out_features, 1, bias=layer.bias is not None)
    own.load_state_dict({n: t[..., None, None] if n == "weight" else t for n, t in layer.state_dict().items()})
    return nn.Sequential(own, nn.Flatten(1))


def _check_same(found: nn.Module, model: nn.Module, image: Tensor) -> None:
    x = torch.randn(2, *image.shape[1:], generator=torch.Generator().manual_seed(0))
    try:
        same = torch.allclose(found.eval()(x), model.eval()(x), rtol=1e-4, atol=1e-4)
    except RuntimeError:  # a convolution behind a flattening
        same = False
    if not same:
        raise UserError(f"FastNAS cannot be given {type(model).__name__}: it has layers that are not torch's own")
