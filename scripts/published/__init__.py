"""Tables of the papers trained again: the same changes to a network, on your images."""
