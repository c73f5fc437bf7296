"""What we promised: messages that upstream could not take, every recipient's standing, and charges that the store must still hear of."""
