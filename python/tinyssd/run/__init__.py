"""What decides a run, and what a run leaves behind."""
