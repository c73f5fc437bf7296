"""The shell door: every command of `relay`, by topic.

Promises: a wrong argument or an unusable configuration is one clear line on standard error and exit status 2; a store that does not
answer is one line and exit status 75 (EX_TEMPFAIL); anything else that fails is exit status 1. `--json` prints one JSON document.
"""
