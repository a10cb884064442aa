"""A study and its files: sent to its volume while it runs, fetched where it goes on, verified, mended."""
