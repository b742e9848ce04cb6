"""Measuring jobs: here, in another interpreter, or on another machine."""
