"""What a person sees of a study: while it runs, and from its ledger at any time."""
