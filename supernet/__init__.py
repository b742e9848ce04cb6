"""The supernet: one weight store for all networks of a space, and its training step."""

from supernet.sandwich import sandwich_archs, sandwich_step
from supernet.store import Supernet

__all__ = ["Supernet", "sandwich_archs", "sandwich_step"]
