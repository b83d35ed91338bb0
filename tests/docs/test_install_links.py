"""The links that add the MCP server to a host hold the entry that `agentbus mcp config` writes for a shared project."""

import base64
import json
import re
from urllib.parse import parse_qs, urlsplit

import pytest

from agentbus.provision.mcp_host_files import HOSTS, entry, shared_program
from support.documentation import README

LINK = re.compile(r"\[add to ([^\]]+)\]\((https://[^)\s]+)\)")
TEXT = README.read_text(encoding="utf-8")
LINKS = dict(LINK.findall(TEXT))


def asked(link: str) -> dict[str, str]:
    """The query of a link: a host reads each of its parameters once."""
    return {name: value for name, [value] in parse_qs(urlsplit(link).query, strict_parsing=True).items()}


def shared(host: str) -> dict[str, object]:
    """The entry without the kind of transport, which the links leave to the host."""
    return {key: value for key, value in entry(HOSTS[host], shared_program()).items() if key != "type"}


def test_there_is_a_link_for_each_host_that_takes_one() -> None:
    assert set(LINKS) == {"Cursor", "VS Code"}


def test_the_link_for_cursor_has_the_entry_as_base64() -> None:
    found = asked(LINKS["Cursor"])
    assert found["name"] == "agentbus"
    assert json.loads(base64.b64decode(found["config"], validate=True)) == shared("cursor")


def test_the_link_for_vs_code_has_the_entry_as_json() -> None:
    found = asked(LINKS["VS Code"])
    assert found["name"] == "agentbus"
    assert json.loads(found["config"]) == shared("vscode")


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_a_link_is_one_that_code_forges_show(link: str) -> None:
    assert link.startswith("https://"), "links with the scheme of a program are taken out of a README"


def test_the_command_for_claude_code_starts_the_same_program() -> None:
    assert f"`claude mcp add agentbus -- {' '.join(shared_program())}`" in TEXT
