"""The words of mail, pure: no I/O, no clock, no logging. Everything here can be tested with values alone."""
