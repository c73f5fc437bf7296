"""A vendor's words to provisioning's and back; pure translation."""
