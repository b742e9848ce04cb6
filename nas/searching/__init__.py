"""Search: strategies, what they have evaluated, and the winners they pick."""
