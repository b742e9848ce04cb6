"""How accurate the networks of a supernet are: one after another, raced, or spread over workers."""
