"""Says of two subjects with wildcards whether they overlap."""

import itertools


def meet(one: str, other: str) -> bool:
    """Whether some subject matches both."""
    pairs = itertools.zip_longest(one.split("."), other.split("."))
    for left, right in pairs:
        if ">" in (left, right):
            return None not in (left, right)
        if left != right and "*" not in (left, right):
            return False
        if None in (left, right):
            return False
    return True
