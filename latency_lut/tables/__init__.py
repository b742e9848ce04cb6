"""The latency table, the plan by which it is measured, and its plots."""
