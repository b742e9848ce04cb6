"""Dense prediction over backbones: boxes, masks or both. What nas.detect, nas.segment and nas.instances share."""
