"""Accuracy by class of single networks, and what they confuse."""
