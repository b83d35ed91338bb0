"""Decides, before Claude Code uses a tool, whether a person is asked first: the program of the hook that workers ship.

`python -I -S hook.py RULES` gets the call on its standard input, and answers on its standard output. It is started for
each use of a tool, so it needs nothing but the standard library. What it cannot judge is blocked: exit status 2.

A pattern is `Tool` or `Tool(what*)`, as in Claude Code's permission rules. It matches more than those do, never less: a
command matches wherever in a line it stands, whatever is before it, with any quoting.
"""

# ruff: noqa: PTH111, PTH118, PTH123
# `pathlib` takes as long to load as all else.

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, Final, TypeAlias, cast

Json: TypeAlias = Any
Object: TypeAlias = dict[str, Json]

_OUTPUT, _ERRORS = 1, 2
_MAX_CALL_BYTES: Final = 16_777_216
_LONGEST_CHARS: Final = 16_384
"""Of a command or a path: one that is longer is asked about, whatever is in it."""
_MOST_VALUES: Final = 1_000
"""Of the arguments of one call, likewise."""
_OPERATORS: Final = re.compile(r"[;|&\n\r(){}`$<>!]+")
"""Where a command may begin in a line of a shell, besides at a word."""
_FAMILIES: Final[dict[str, tuple[str, ...]]] = {
    "Bash": ("Monitor",),
    "Edit": ("Write", "MultiEdit", "NotebookEdit"),
    "Read": ("Grep", "Glob", "LS", "NotebookRead"),
    "Agent": ("Task",),
    "Task": ("Agent",),
}
"""Tools for which a pattern of another one counts, too."""
_COMMANDS: Final = ("Bash", "Monitor", "PowerShell")
_FILES: Final = ("Read", "Edit", "Write", "MultiEdit", "NotebookEdit", "Grep", "Glob", "LS", "NotebookRead")
_PATHS: Final = ("file_path", "path", "notebook_path")
_ONLY_MAIN: Final = (
    "This call needs the approval of a person, and only the main agent can wait for one. Do not try to have the same "
    "effect in another way. End with what you have; the main agent may make this very call itself."
)


def decision(call: Object, rules: Object) -> Object | None:
    """Return what Claude Code is told about a call of a tool; None for nothing, so that its own rules decide.

    Args:
        call: `tool_name`, `tool_input`, `cwd`; and `agent_id` in an agent that another one has started.
        rules: `patterns`; `approved` and `denied`: calls that a person has answered, as `tool`, `digest` and `said`,
            and of an approved one the path `used`, which stands for its one use.
    """
    tool, arguments = call.get("tool_name"), call.get("tool_input")
    if not isinstance(tool, str) or not isinstance(arguments, dict):
        raise TypeError("the call of a tool has another form than this version knows")
    if (answer := _answer(tool, arguments, rules)) is not None:
        return answer
    cwd = str(call.get("cwd") or "/")
    pattern = next((one for one in rules["patterns"] if matches(one, tool, cast("Object", arguments), cwd)), None)
    if pattern is None:
        return None
    if call.get("agent_id"):
        return {"permissionDecision": "deny", "permissionDecisionReason": _ONLY_MAIN}
    return {"permissionDecision": "defer", "permissionDecisionReason": f"ask_before has {pattern}"}


def _answer(tool: str, arguments: Json, rules: Object) -> Object | None:
    """Return what a person has said of this very call, if it still counts."""
    denied, approved = rules.get("denied"), rules.get("approved")
    if denied is not None and _is(denied, tool, arguments):
        return {"permissionDecision": "deny", "permissionDecisionReason": denied["said"]}
    if approved is None or not _is(approved, tool, arguments) or not _take(approved["used"]):
        return None
    told = {"additionalContext": approved["said"]} if approved["said"] else {}
    return {"permissionDecision": "allow", "permissionDecisionReason": "approved by a person", **told}


def digest_of(arguments: Json) -> str:
    """Return what tells arguments from others: as `agentbus.protocol.questions.question.digest_of`."""
    text = json.dumps(arguments, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def matches(pattern: str, tool: str, arguments: Object, cwd: str) -> bool:
    """Whether a pattern matches the call of a tool."""
    name, bracket, rest = pattern.partition("(")
    what = rest.removesuffix(")").strip() if bracket else ""
    if not _names(name.strip(), tool):
        return False
    if what in ("", "*", ":*"):
        return True
    if tool in _COMMANDS:
        return any(_is_in_command(what, text) for text in _named(arguments, ("command",)))
    if tool in _FILES:
        return any(_is_path(what, text, cwd) for text in _named(arguments, _PATHS))
    if what.startswith("domain:"):
        wanted = what.removeprefix("domain:").lower()
        return any(_is_of_domain(wanted, text) for text in _named(arguments, ("url",)))
    return any(_too_long(text) or _glob(what, text) for text in _texts(arguments))


def _is(answered: Object, tool: str, arguments: Json) -> bool:
    return answered["tool"] == tool and answered["digest"] == digest_of(arguments)


def _take(used: str) -> bool:
    """Whether this is the first use of an approval."""
    try:
        os.close(os.open(used, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True


def _names(name: str, tool: str) -> bool:
    if name.startswith("mcp__") and tool.startswith(f"{name}__"):
        return True  # a server stands for all of its tools
    return _glob(name, tool) or tool in _FAMILIES.get(name, ())


def _is_in_command(what: str, command: str) -> bool:
    """Whether a command holds what a pattern says: as the whole, or from any word on, up to the end of a command."""
    if _too_long(command):
        return True
    what = " ".join(_unquoted(f"{what[:-2]} *" if what.endswith(":*") else what).split())
    bare = what.removesuffix(" *")
    plain = _unquoted(command)
    for part in (plain, *_OPERATORS.split(plain)):
        words = part.split()
        text, at = " ".join(words), 0
        for word in words:
            rest = text[at:]
            at += len(word) + 1
            # A program may be named by its path.
            for found in (rest, rest[word.rfind("/") + 1 :] if "/" in word else rest):
                if found == bare or _glob(what, found):
                    return True
    return False


def _unquoted(text: str) -> str:
    """Return a line of a shell without its quotation marks, and without what continues it on the next line."""
    return text.replace("\\\r\n", "").replace("\\\n", "").replace("'", "").replace('"', "").replace("\\", "")


def _is_path(what: str, path: str, cwd: str) -> bool:
    """Whether a pattern names a file, or a folder that holds it; without a folder of its own, one at any depth."""
    if _too_long(path):
        return True
    what = os.path.expanduser(what[1:] if what.startswith("//") else what).removeprefix("./")
    while "**" in what:
        what = what.replace("**", "*")
    what = what.rstrip("/")
    whole = os.path.normpath(os.path.join(cwd, os.path.expanduser(path)))
    for known in {whole, os.path.realpath(whole)}:
        ends = [match.end() for match in re.finditer("/", known)]
        for found in (known, *(known[end:] for end in ends), *(known[end - 1 :] for end in ends)):
            if _glob(what, found) or _glob(f"{what}/*", found):
                return True
    return False


def _is_of_domain(wanted: str, url: str) -> bool:
    if _too_long(url):
        return True
    host = url.lower().partition("://")[2].partition("/")[0].rpartition("@")[2].partition(":")[0].rstrip(".")
    return not host or _glob(wanted, host) or host.endswith(f".{wanted}")


def _named(arguments: Object, names: tuple[str, ...]) -> list[str]:
    """Return the arguments with one of the names; all texts where there is none."""
    found = [value for name in names if isinstance(value := arguments.get(name), str)]
    return found or list(_texts(arguments))


def _texts(value: Json) -> Iterator[str]:
    """Yield the texts in arguments; of too many, one that is too long."""
    left: list[Json] = [value]
    for _ in range(_MOST_VALUES):
        if not left:
            return
        one = left.pop()
        if isinstance(one, dict):
            left += list(cast("Object", one).values())
        elif isinstance(one, list):
            left += cast("list[Json]", one)
        elif isinstance(one, str):
            yield one
        elif one is not None:
            yield json.dumps(one)
    yield "…" * (_LONGEST_CHARS + 1)


def _too_long(text: str) -> bool:
    return len(text) > _LONGEST_CHARS


def _glob(pattern: str, text: str) -> bool:
    """Whether a text is what a pattern says, in which `*` stands for anything. It takes no more than a few passes."""
    first, *rest = pattern.split("*")
    if not rest:
        return text == pattern
    last = rest.pop()
    if not text.startswith(first) or len(text) < len(first) + len(last) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in rest:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def main(rules_file: str) -> int:
    """Answer about the call on standard input; returns the exit status."""
    try:
        with open(rules_file, encoding="utf-8") as file:
            rules = json.load(file)
        call = json.loads(sys.stdin.buffer.read(_MAX_CALL_BYTES))
        answer = decision(call, rules)
    except Exception as error:  # noqa: BLE001  # a process boundary: any other end would let the call through
        os.write(_ERRORS, f"whether a person is to be asked before this call cannot be told: {error!r}\n".encode())
        return 2
    if answer is not None:
        os.write(_OUTPUT, json.dumps({"hookSpecificOutput": {"hookEventName": "PreToolUse", **answer}}).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
