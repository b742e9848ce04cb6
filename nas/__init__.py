"""The work: objective, search, training, retraining, export and report, one command each (`python -m nas`)."""

import os
import signal
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before timm is imported: nothing is downloaded while a command runs

if sys.argv[0] == "-m":  # a command is starting; until `command.run` catches Ctrl-C, it ends without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
