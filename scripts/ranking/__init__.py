"""Supernets by how well they rank networks."""
