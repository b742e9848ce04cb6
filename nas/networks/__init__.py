"""Networks with their weights: out of files, and out of supernets."""
