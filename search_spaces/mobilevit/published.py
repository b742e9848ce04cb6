"""The published networks in numbers, and what all networks of the family have in common.

Mehta and Rastegari, MobileViT, ICLR 2022: Table 4 and Appendix A. Faath and Uppuluri, MobileViT on TinyImageNet (2022):
Table 3.
"""

from __future__ import annotations

from typing import Any

NONE, RESIDUAL, CONCATENATION = 0, 1, 2  # how a MobileViT block is fused with its input
STEM_WIDTH = 16
HEADS = 4  # each has a quarter of the transformer's width, also where there are fewer
PATCH, RATIO = 2, 2  # side of a patch, hidden features of an FFN over the transformer's width
LAYERS = (2, 4, 3)  # of the transformers

# Table 4: widths, widths of transformers, expansion (Appendix A), features.
PUBLISHED: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, int]] = {
    "xxs": ((16, 24, 48, 64, 80), (64, 80, 96), 2, 320),
    "xs": ((32, 48, 64, 80, 96), (96, 120, 144), 4, 384),
    "s": ((32, 64, 96, 128, 160), (144, 192, 240), 4, 640),
}
# MobileViT-Tiny's Table 3: stages of XS that are removed, from 0 on; each is there with every fusion.
REMOVED = {"remove-5": (4,), "remove-4-5": (3, 4), "remove-3-4": (2, 3)}
FUSIONS = {"": CONCATENATION, "-no-fusion": NONE, "-residual": RESIDUAL}
TINY = "remove-3-4-no-fusion"

# Arguments of timm's `ByoModelCfg`.
NETWORK: dict[str, Any] = {"stem_type": "3x3", "stem_pool": "", "downsample": "", "act_layer": "silu"}
VARIED = "varied"  # type of a block that timm's own cannot express
