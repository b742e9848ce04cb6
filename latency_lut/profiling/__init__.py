"""Where a network's time goes."""
