"""Detectors over backbones: boxes of objects, and masks of them."""
