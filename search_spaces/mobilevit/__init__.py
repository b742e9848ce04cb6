"""MobileViT (Mehta and Rastegari 2022), and MobileViT-Tiny (Faath and Uppuluri 2022)."""

from search_spaces.mobilevit.space import MobileViTSpace, Stage, mobilevit, mobilevit_nano, mobilevit_tiny

__all__ = ["MobileViTSpace", "Stage", "mobilevit", "mobilevit_nano", "mobilevit_tiny"]
