"""What is known of a study: the ledger, and the state that follows from it."""
