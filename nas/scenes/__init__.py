"""Images with boxes, masks, or both: where they come from, how they are split, and in which batches."""

from nas.scenes.splits import BoxesConfig, MasksConfig, SceneData, load_boxes, load_instances, load_masks
from nas.scenes.views import BoxScenes, InstanceScenes, MaskScenes, Scenes

__all__ = [
    "BoxScenes",
    "BoxesConfig",
    "InstanceScenes",
    "MaskScenes",
    "MasksConfig",
    "SceneData",
    "Scenes",
    "load_boxes",
    "load_instances",
    "load_masks",
]
