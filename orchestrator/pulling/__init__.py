"""Taking an epoch home, from a folder or a volume."""
