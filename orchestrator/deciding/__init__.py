"""What to do next: pure functions from what is wanted and what is known to decisions."""
