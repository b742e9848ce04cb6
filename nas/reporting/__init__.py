"""The report of a run: its figures, plots and page."""
