"""Pruning beside other pruners."""
