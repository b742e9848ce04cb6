"""How annotations are written: each in COCO's form, which the others are read into."""
