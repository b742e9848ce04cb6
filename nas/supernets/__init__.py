"""Supernets of a run: training one, of classifiers or of networks with a head for boxes or masks."""
