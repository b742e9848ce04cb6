"""How the tensors of each known family are made of dimensions."""
