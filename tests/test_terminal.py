"""What `agentbus.terminal` writes to a terminal and to a pipe, each from a process of its own."""

import asyncio
import json
import sys

import pytest

from support.hidden_characters import ALL, hidden
from support.hostile_bus import RAW
from support.pseudo_terminal import acting, terminal

pytestmark = pytest.mark.posix("a pseudo-terminal")

BEGIN = "import json, sys; from agentbus import terminal; text = json.loads(sys.argv[1]);"
LINES = f"{BEGIN} terminal.line(text); terminal.error_line(text)"
COLOURED = f"{BEGIN} terminal.line(terminal.Styled(text, 'green'), text)"
RAISED = f"{BEGIN} terminal.guard_tracebacks(); raise ValueError(text)"
LOGGED = f"{BEGIN} import logging; terminal.guard_log_of_libraries(); logging.getLogger('asyncio').error('%s', text)"
IN_PARTS = """
import sys
from agentbus.terminal import RawOutput
data, size = bytes.fromhex(sys.argv[1]), int(sys.argv[2])
out = RawOutput()
for at in range(0, len(data), size):
    out.write(data[at:at + size])
out.close()
"""
ENDLESS = """
from agentbus.terminal import RawOutput
out = RawOutput()
for _ in range(300):
    out.write(b"x\x1b" * 512)
out.close()
"""
BAR = """
from agentbus.terminal import RawOutput
out = RawOutput()
for number in range(20_000):
    out.write(b"at %05d of very many\\r" % number)
    assert len(out._rest) <= 70_000
out.write(b"\\ndone")
out.close()
"""
VISIBLE = r"\x1b]52;c;ZXZpbA==\x07"


async def on_terminal(code: str, *arguments: str, **env: str) -> str:
    async with terminal(["-c", code, *arguments], env=env) as running:
        pass
    return running.shown


async def in_pipe(code: str, *arguments: str) -> tuple[bytes, bytes]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    return await child.communicate()


async def test_lines_are_harmless_on_a_terminal_and_unchanged_in_a_pipe():
    shown = await on_terminal(LINES, json.dumps(ALL))
    assert acting(shown) == []
    assert shown.count(VISIBLE) == 2
    assert await in_pipe(LINES, json.dumps(ALL)) == (f"{ALL}\n".encode(), f"{ALL}\n".encode())


async def test_only_our_own_part_has_a_colour_and_none_with_no_color():
    text, seen = "x\x1b[38;5;201m", r"x\x1b[38;5;201m"
    assert await on_terminal(COLOURED, json.dumps(text)) == f"\x1b[32m{seen}\x1b[0m{seen}\r\n"
    assert await on_terminal(COLOURED, json.dumps(text), NO_COLOR="1") == f"{seen}{seen}\r\n"
    assert await in_pipe(COLOURED, json.dumps(text)) == (f"{text}{text}\n".encode(), b"")


@pytest.mark.parametrize("code", [RAISED, LOGGED], ids=["a traceback", "a line of a library"])
async def test_an_unexpected_error_is_harmless_on_a_terminal_too(code: str):
    shown = await on_terminal(code, json.dumps(ALL))
    assert acting(shown) == []
    assert VISIBLE in shown
    _, err = await in_pipe(code, json.dumps(ALL))
    assert ALL.encode() in err


@pytest.mark.parametrize("size", [1, 7, 1_000_000])
async def test_bytes_that_come_in_parts_are_shown_as_if_they_had_come_at_once(size: int):
    family, word = "👩\u200d❤\ufe0f\u200d👨", "می\u200cخو"
    data = f"{family}\r\nmi\u200cm {word}\n".encode() + RAW
    shown = await on_terminal(IN_PARTS, data.hex(), str(size))
    assert family in shown
    assert r"mi\u200cm " + word in shown
    assert r"\x9b31m\xff\xfe\x9d52;c;eA==\x9c \r\x1b[2J no end" in shown
    assert acting(shown.replace(f"{family}\r", "").replace(word, "")) == []
    assert await in_pipe(IN_PARTS, data.hex(), str(size)) == (data, b"")


async def test_a_line_that_never_ends_is_shown_all_the_same():
    shown = await on_terminal(ENDLESS)
    assert shown == r"x\x1b" * 512 * 300
    assert not any(map(hidden, shown))


@pytest.mark.parametrize("size", [1, 1000])
async def test_of_an_output_a_terminal_gets_no_colours_and_what_is_left_does_not_act(size: int):
    text = "\x1b[31mred\x1b[0m \x1b[1;38:5:201mbold\x1b[m \x1b\x1b[31m[2J\n"
    assert (await on_terminal(IN_PARTS, text.encode().hex(), str(size))).rstrip() == r"red bold \x1b[2J"
    assert (await in_pipe(IN_PARTS, text.encode().hex(), str(size)))[0] == text.encode()


@pytest.mark.parametrize("size", [1, 1000])
async def test_of_a_progress_bar_a_terminal_gets_the_last_state_and_how_many_came_before(size: int):
    text = "begin\r\n" + "".join(f"\rdl {percent}%" for percent in range(0, 101, 10)) + "\nonce\rtwice\r\nend\r"
    shown = await on_terminal(IN_PARTS, text.encode().hex(), str(size))
    assert shown.replace("\r", "").split("\n")[:4] == [
        "begin",
        "dl 100% [10 earlier states of this line]",
        "twice [1 earlier state of this line]",
        r"end\r",
    ]
    assert (await in_pipe(IN_PARTS, text.encode().hex(), str(size)))[0] == text.encode()


async def test_a_progress_bar_that_never_ends_its_line_is_counted_and_not_held_in_memory():
    shown = await on_terminal(BAR)
    assert shown.replace("\r\n", "\n").split("\n") == [
        "at 19999 of very many [19999 earlier states of this line]",
        "done",
    ]
