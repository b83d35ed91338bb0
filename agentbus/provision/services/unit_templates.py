"""Fills in the service units that come with agentbus in `deploy/`."""

import re
from collections.abc import Mapping

from agentbus.provision.assets import asset


def unit_template(name: str) -> str:
    """Return a shipped unit without the comments at its head, which say how to install it by hand."""
    text = asset(f"deploy/{name}").read_text(encoding="utf-8")
    return text if text.startswith("<?xml") else text[text.index("\n[") + 1 :]


def with_keys(text: str, keys: Mapping[str, str], after: str = "") -> str:
    """Replace the values of keys; a key that the text does not have is inserted behind the line of the key `after`."""
    for key, value in keys.items():
        line = f"{key}={value}"
        text, count = re.subn(rf"(?m)^{key}=.*$", lambda _, line=line: line, text)
        if not count:
            text = re.sub(rf"(?m)^{after}=.*$", lambda found, line=line: f"{found.group()}\n{line}", text)
    return text
