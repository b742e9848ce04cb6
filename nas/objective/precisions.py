"""The precisions that networks are searched and shipped in."""

from collections.abc import Mapping
from typing import Any, Literal

Precision = Literal["float32", "float16", "int8"]
FilePrecision = Literal[Precision, "palettized"]  # float16, its weights in palettes: no other search
ACTIVATION_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}  # also of what tables alone are in
RANGE_IMAGES = 256  # training images that int8 finds the ranges of activations on, in searches and in files


def precision_of(network: Mapping[str, Any]) -> Precision:
    """That of a network in a result, which it was searched in."""
    found: Precision = network.get("precision", "float32")
    return found
