"""Training: the loop, and what it trains."""
