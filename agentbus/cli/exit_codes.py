"""The exit codes of the commands, other than 0 for success."""

FAILED = 1
"""The command failed; one line on standard error says why."""
USAGE = 2
"""Wrong usage, as in click and most programs."""
INTERRUPTED = 130
"""Ctrl-C: 128 plus the number of SIGINT, as in shells."""
