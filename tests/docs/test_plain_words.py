"""Texts name the actor, and use the field's words."""

import re

from support.harness import ROOT

NOT_USED = re.compile(r"\b(nobody|somebody|whoever|wish|bury|mends?|patience)\b", re.IGNORECASE)
PLACES = ("agentbus", "worker", "mcp_server", "docs", "skills", "README.md", "CHANGELOG.md")


def test_no_text_leaves_open_who_acts() -> None:
    files = [path for place in PLACES for path in [ROOT / place, *(ROOT / place).rglob("*")] if path.is_file()]
    texts = {path: path.read_text(encoding="utf-8") for path in files if path.suffix in (".py", ".md", ".toml")}
    assert len(texts) > 200
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if NOT_USED.search(line)
    ]
    assert found == []
