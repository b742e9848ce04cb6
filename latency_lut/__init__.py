"""Latency tables: what every block of a search space costs on one device, measured there."""

from latency_lut.tables.table import LatencyTable, newest_table

__all__ = ["LatencyTable", "newest_table"]
