"""The exit codes of the commands, beside 0 for success."""

FAILED = 1
"""An error of ours: its one line is on standard error."""
USAGE = 2
"""Wrong usage, as click and most programs have it."""
INTERRUPTED = 130
"""Ctrl-C: 128 and the number of SIGINT, as shells have it."""
