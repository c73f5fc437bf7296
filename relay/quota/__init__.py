"""How much: limits, and the ledger that keeps them exactly."""
