"""EfficientViT of Microsoft Research (Liu et al. 2023)."""

from search_spaces.efficientvit.space import EfficientVitSpace, efficientvit, efficientvit_nano

__all__ = ["EfficientVitSpace", "efficientvit", "efficientvit_nano"]
