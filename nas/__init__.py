"""The work: objective, search, training, retraining, export and report, one command each (`python -m nas`)."""

import os

import search_spaces  # noqa: F401  first: from here on Ctrl-C ends a command without a traceback

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before timm is imported: nothing is downloaded while a command runs
