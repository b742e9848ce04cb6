"""Files for devices, and how far each agrees with PyTorch."""
