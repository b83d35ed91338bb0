"""`agentbus ui` on a terminal: its links, and the browser that it opens."""

import re
import sys
from pathlib import Path

import httpx2
import pytest

from support.harness import BOUND_S, eventually, run_cli
from support.mcp_harness import NOWHERE
from support.pseudo_terminal import terminal
from support.ui_page import HEADER

pytestmark = pytest.mark.posix("needs a pseudo-terminal")

LINK = re.compile(r"(http://127\.0\.0\.1:\d+/)#token=(\w+)")


async def test_enter_prints_another_link_and_the_browser_is_given_one_of_its_own(tmp_path: Path):
    opened = tmp_path / "opened"
    program = tmp_path / "browser"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nopen({str(opened)!r}, 'w').write(sys.argv[1])\n", encoding="utf-8"
    )
    program.chmod(0o755)
    words = ["-m", "agentbus", "ui", "--nats-url", NOWHERE, "--port", "0"]
    async with terminal(words, env={"BROWSER": str(program)}, keyboard=True) as running:
        await running.until_shown("Enter: a new link")
        running.press("\n")
        found = await eventually(lambda: len(set(LINK.findall(running.shown))) == 2, "another link") and set(
            LINK.findall(running.shown)
        )
        given = await eventually(
            lambda: opened.exists() and LINK.fullmatch(opened.read_text(encoding="utf-8")), "opened"
        )
        for url, token in {*found, given.groups()}:
            async with httpx2.AsyncClient(base_url=url, timeout=BOUND_S) as http:
                answer = await http.post("api/session", json={"token": token}, headers=HEADER)
                assert answer.status_code == 200, answer.text
        assert given[2] not in {token for _, token in found}
        running.child.terminate()


async def test_what_cannot_be_served_is_refused_before_anything_is_opened():
    both = await run_cli("ui", "--tokens", "x", "--nats-url", NOWHERE)
    assert (both.code, both.out) == (2, "")
    assert "--tokens excludes --config and --nats-url" in both.err
    odd = await run_cli("ui", "--host", "a b", "--no-browser", "--nats-url", NOWHERE)
    assert odd.code == 2
    assert "--host 'a b' is not HOST:PORT" in odd.err
    name = await run_cli("ui", "--allowed-host", "a/b", "--no-browser", "--nats-url", NOWHERE)
    assert name.code == 2
