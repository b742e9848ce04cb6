"""The work: objective, search, training, retraining, export and report, one command each (`python -m nas`)."""

import search_spaces  # noqa: F401  first: it prepares the process of a command, before torch and timm are imported
