"""Studies of devices."""
