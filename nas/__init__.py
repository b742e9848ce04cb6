"""The work: objective, search, training, retraining, export and report, one command each (`python -m nas`)."""
