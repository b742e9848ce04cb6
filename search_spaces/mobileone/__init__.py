"""MobileOne (Vasu et al. 2023)."""

from search_spaces.mobileone.space import MobileOneSpace, mobileone, mobileone_nano

__all__ = ["MobileOneSpace", "mobileone", "mobileone_nano"]
