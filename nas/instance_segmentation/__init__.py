"""Instance segmentation over backbones: a box and a mask for each object."""
