"""Dense prediction: boxes or masks of images, by a head on a backbone. What nas.detect and nas.segment share."""
