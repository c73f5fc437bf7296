"""A load, a scripted smarthost to send it to, and an oracle that says from the records whether the relay kept its promises."""
