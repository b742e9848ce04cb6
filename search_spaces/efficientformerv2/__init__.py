"""EfficientFormerV2 (Li et al. 2023)."""

from search_spaces.efficientformerv2.space import EfficientFormerV2Space, efficientformerv2, efficientformerv2_nano

__all__ = ["EfficientFormerV2Space", "efficientformerv2", "efficientformerv2_nano"]
