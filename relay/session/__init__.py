"""How it comes in: listeners, the protocol, AUTH, the transaction (the spine) and the disposition."""
