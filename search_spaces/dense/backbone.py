"""A network as a backbone: the chain of its blocks, cut where the resolution changes, without what classifies.

Every network of every space is one, as it is built or with the weights of an extracted, retrained or exported one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace

import torch
from timm.layers import resize_rel_pos_bias_table_levit
from timm.models import FeatureInfo
from torch import Tensor, nn

from search_spaces.base import Arch, SearchSpace
from search_spaces.block import BlockSpec
from search_spaces.command import UserError, reason
from search_spaces.dense.cuts import Cut, cuts, strides_of
from search_spaces.dense.dilation import take_strides
from search_spaces.timm_network.timm_models import TIMM_ERRORS


class Backbone(nn.Module):
    """(B, 3, S, S) images to a list of maps, (B, channels[i], S / strides[i], S / strides[i]), finest first.

    It has the fresh weights of `space.build(arch)` until others are loaded, and as timm's backbones a `feature_info`.

    Args:
        space: of images of S pixels.
        output_stride: the most that the last map may have: strides beyond it become 1, and the kernels behind them are
            dilated, as timm's convolutional networks have it.
        finest_stride: of the first map: 2x2 deconvolutions, one after another, double the finest map of the network
            until it has that. For EfficientViT, whose own begin at 16: two of them give 8 and 4 (Liu et al., CVPR 2023,
            supplement D; microsoft/Cream, EfficientViT/downstream/efficientvit_fpn.py).

    Raises:
        UserError: the network is no chain of maps, or cannot have these strides.
    """

    def __init__(
        self, space: SearchSpace, arch: Arch, output_stride: int | None = None, finest_stride: int | None = None
    ) -> None:
        super().__init__()
        self.image_size = space.image_size
        own = cuts(space, arch)
        blocks = space.lower(arch)[: own[-1].end + 1]
        found = _cut_short(space, own, output_stride or own[-1].stride)
        self.blocks = nn.ModuleList(_built(space.image_size, blocks, found[-1].stride))
        self._ends = frozenset(cut.end for cut in found)
        self._prefixes = tuple(f"{prefix}." if prefix else "" for prefix in space.prefixes(arch)[: len(blocks)])
        self.deconvolutions = nn.ModuleList()
        for _ in range(_num_doublings(space, found[0].stride, finest_stride)):
            self.deconvolutions.append(nn.ConvTranspose2d(found[0].channels, found[0].channels, 2, 2))
            first = found[0]
            found = (
                replace(first, stride=first.stride // 2, module=f"deconvolutions.{len(self.deconvolutions) - 1}"),
                *found,
            )
        self.feature_info = FeatureInfo(
            [{"num_chs": cut.channels, "reduction": cut.stride, "module": cut.module} for cut in found],
            tuple(range(len(found))),
        )
        if found[-1].stride < own[-1].stride:
            self._check_runs(space, own[-1].stride)
        self.load(space.build(arch).state_dict())

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the maps."""
        return tuple(self.feature_info.reduction())

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the maps."""
        return tuple(self.feature_info.channels())

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x)  # beside which MobileViT's blocks hand on another tensor, never where a map is taken
            if i in self._ends:
                maps.append(x)
        for deconvolution in self.deconvolutions:
            maps.insert(0, deconvolution(maps[0]))
        return maps

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes over the weights of a network, named as `space.build(arch)` names them; what classifies is left out.

        Biases of attentions, which follow the size of maps, are resized bicubically to this backbone's, as the authors
        of EfficientViT do (microsoft/Cream, EfficientViT/downstream/efficientvit.py, `init_weights`).

        Raises:
            UserError: a tensor is missing, or of another shape.
        """
        for prefix, block in zip(self._prefixes, self.blocks, strict=True):
            block.load_state_dict({n: _fitting(prefix + n, own, state) for n, own in block.state_dict().items()})

    def _check_runs(self, space: SearchSpace, own_stride: int) -> None:
        """UserError unless the last map has its stride: found without computing anything."""
        stride = self.strides[-1]
        image, wanted = torch.empty(1, 3, *2 * [self.image_size], device="meta"), -(-self.image_size // stride)
        try:
            found = copy.deepcopy(self).to("meta").eval()(image)[-1].shape[-1]
            problem = "" if found == wanted else f"its map is {found} px high then, not {wanted}"
        except TIMM_ERRORS as error:
            problem = reason(error)
        if problem:
            raise UserError(
                f"{space.name} cannot have output stride {stride}, by attentions or layers that need its own strides "
                f"({problem}); give {own_stride}"
            )


def _cut_short(space: SearchSpace, found: tuple[Cut, ...], output_stride: int) -> tuple[Cut, ...]:
    """The maps where strides beyond that one are 1: the last of all is one of that stride."""
    strides = [cut.stride for cut in found]
    if output_stride >= strides[-1]:
        return found
    if output_stride not in strides:
        raise UserError(
            f"output stride {output_stride} is none of {space.name}'s; choose from {', '.join(map(str, strides))}"
        )
    return *found[: strides.index(output_stride)], replace(found[-1], stride=output_stride)


def _num_doublings(space: SearchSpace, stride: int, wanted: int | None) -> int:
    """How often a map of that stride is doubled."""
    if wanted is None or wanted >= stride:
        return 0
    finer = [stride >> i for i in range(1, stride.bit_length())]
    if wanted not in finer:
        raise UserError(
            f"finest stride {wanted}: that of {space.name} is {stride}; choose from {', '.join(map(str, finer))}"
        )
    return finer.index(wanted) + 1


def _built(image_size: int, blocks: Sequence[BlockSpec], output_stride: int) -> Iterator[nn.Module]:
    """The blocks' modules; those that would go beyond the output stride without theirs, and dilated behind it."""
    strides = strides_of(image_size, blocks)
    for block, before, after in zip(blocks, (1, *strides), strides, strict=False):
        if after <= output_stride:
            yield block.build()
            continue
        module = _at(block, -(-image_size // output_stride)).build()
        take_strides(module, max(1, before // output_stride), after // output_stride)
        yield module


def _at(block: BlockSpec, resolution: int) -> BlockSpec:
    """The block for maps of that height, where it says for which it is."""
    return replace(block, resolution=resolution) if "resolution" in {f.name for f in fields(block)} else block  # type: ignore[call-arg]


def _fitting(name: str, own: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """The tensor of that name, of its own tensor's shape."""
    if name not in state:
        raise UserError(f"the weights have no {name}; give those of this network")
    found = state[name]
    if name.endswith("attention_biases") and found.shape != own.shape and len(found) == len(own):
        found = resize_rel_pos_bias_table_levit(found.float().T, own.T.shape, antialias=False).T.to(own)
    if found.shape != own.shape:
        raise UserError(f"the weights have {tuple(found.shape)} as {name}, not {tuple(own.shape)}; give this network's")
    return found
