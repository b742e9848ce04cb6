"""The proof of a search: its winners beside what would have been picked without one."""
