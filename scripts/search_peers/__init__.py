"""What else a fine-tuned network can be made smaller by, at the time of a search's winner and for its compute."""
