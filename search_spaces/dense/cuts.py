"""Where a network's chain of blocks has its maps: the places at which heads and pyramids take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search_spaces.base import Arch, SearchSpace
from search_spaces.block import BlockSpec
from search_spaces.command import UserError


@dataclass(frozen=True)
class Cut:
    """A map that a chain of blocks makes on its way.

    Args:
        end: place of the block that makes it.
        stride: pixels of the image for each of its own.
    """

    end: int
    stride: int
    channels: int
    module: str


def cuts(space: SearchSpace, arch: Arch) -> tuple[Cut, ...]:
    """The last map of each stride, finest first, as timm's `features_only` has them.

    What lies in the module of the next stride but before it, as EfficientViT's FFN before a merging, is that one's.
    Behind the last block of a list (whose name has a dot) lies what classifies, a last 1x1 convolution too.

    Raises:
        UserError: the network is no chain of maps.
    """
    blocks = space.lower(arch)
    body = blocks[: max((i + 1 for i, block in enumerate(blocks) if "." in block.name), default=len(blocks))]
    strides = strides_of(space.image_size, body)
    found = []
    for stride in sorted({*strides} - {1}):
        maps = [i for i, block in enumerate(body) if strides[i] == stride and _is_map(block)]
        following = maps[-1] + 1 if maps[-1] + 1 < len(body) else None
        stage = None if following is None else _stage(body[following])
        end = next((i for i in reversed(maps) if _stage(body[i]) != stage), maps[-1])
        found.append(Cut(end, stride, body[end].output_shape()[0], body[end].name))
    if not found:
        raise UserError(f"{space.name} is no backbone: it has tokens, no maps; take a network whose stages have maps")
    return tuple(found)


def strides_of(image_size: int, blocks: Sequence[BlockSpec]) -> list[int]:
    """Of what each block makes; of tokens, that of the map that they were."""
    stride, size, found = 1, image_size, []
    for block in blocks:
        if _is_map(block) and block.output_shape()[1] < size:
            stride, size = stride * round(size / block.output_shape()[1]), block.output_shape()[1]
        found.append(stride)
    return found


def _is_map(block: BlockSpec) -> bool:
    shape = block.output_shape()
    return len(shape) == 3 and shape[1] == shape[2]


def _stage(block: BlockSpec) -> tuple[str, ...]:
    """The module that the block lies in, as `stages.1`."""
    return tuple(block.name.split(".")[:2])
