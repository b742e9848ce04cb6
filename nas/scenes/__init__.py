"""Images with boxes or masks: where they come from, how they are split, and in which batches."""

from nas.scenes.splits import BoxesConfig, MasksConfig, SceneData, ScenesConfig, load_boxes, load_masks
from nas.scenes.views import BoxScenes, MaskScenes, Scenes

__all__ = [
    "BoxScenes",
    "BoxesConfig",
    "MaskScenes",
    "MasksConfig",
    "SceneData",
    "Scenes",
    "ScenesConfig",
    "load_boxes",
    "load_masks",
]
