"""Searches side by side."""
