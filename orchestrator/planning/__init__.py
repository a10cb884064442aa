"""What a study wants: its YAML, what must exist in the end, what that takes, and what is missing for it."""
