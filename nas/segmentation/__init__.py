"""Segmentation over backbones: a class for each pixel."""
