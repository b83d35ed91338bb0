"""docs/explanation/security.md names a test for what it says: each is there."""

import re

import pytest

from support.harness import ROOT

NAMED = re.findall(
    r"`(test_\w+\.py)(?:::(test_\w+))?`", (ROOT / "docs" / "explanation" / "security.md").read_text(encoding="utf-8")
)


def test_the_page_names_tests():
    assert len(NAMED) > 15


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_every_named_test_exists(file: str, test: str):
    [path] = (ROOT / "tests").rglob(file)
    text = path.read_text(encoding="utf-8")
    assert not test or re.search(rf"^(async )?def {test}\(", text, re.MULTILINE)
