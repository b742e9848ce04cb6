"""Runtimes: what each must do, and how it is timed."""
