"""Reads the content of a task that a command publishes: an argument, a file, or standard input."""

import codecs
import sys
from typing import TYPE_CHECKING, Final, Literal

import click

from agentbus.cli import lazy
from agentbus.errors import MessageError
from agentbus.terminal import standard_input

if TYPE_CHECKING:
    from agentbus.protocol.json_codec import Json

_MOST_BYTES: Final = 64 * 1024 * 1024
"""No nats-server takes a larger message; a file or a pipe without an end is read no further."""

HELP: Final = (
    "CONTENT is its text. @FILE reads it from a file, `-` from standard input; so does a missing CONTENT in a pipe. "
    "A text that begins with @ is written with @@."
)


def read_content(content: str | None, payload_fmt: Literal["text", "json"]) -> "Json":
    """Return the content of a task.

    Raises:
        UsageError: there is none, and standard input is a terminal or empty.
        MessageError: it is empty, too long, no UTF-8, or not the JSON that it should be.
    """
    text = _text(content)
    if not text.strip():
        if content is None:
            raise click.UsageError("Missing argument 'CONTENT', and standard input is empty.", _context())
        raise MessageError("the content is empty; nothing was published. An agent would be started for nothing")
    return _json(text) if payload_fmt == "json" else text


def _text(content: str | None) -> str:
    if content is None and sys.stdin.isatty():
        raise click.UsageError("Missing argument 'CONTENT'.", _context())
    if content in (None, "-"):
        return _decoded(standard_input(_MOST_BYTES + 1), "standard input")
    assert content is not None, "both cases stand above"
    if content.startswith("@@"):
        return content[1:]
    if content.startswith("@"):
        return _decoded(_file(content[1:]), f"the file {content[1:]}")
    return content


def _context() -> click.Context:
    return click.get_current_context()


def _file(name: str) -> bytes:
    try:
        with lazy.pathlib.Path(name).expanduser().open("rb") as file:
            return file.read(_MOST_BYTES + 1)
    except (OSError, ValueError, RuntimeError) as error:  # a name with a null character; ~USER of no user
        reason = getattr(error, "strerror", None) or str(error)
        hint = "A text that begins with @ is written with @@"
        raise MessageError(f"cannot read the file {name!a}: {reason}. {hint}") from None


def _decoded(data: bytes, source: str) -> str:
    if len(data) > _MOST_BYTES:
        raise MessageError(f"{source} is larger than {_MOST_BYTES} bytes; put the bulk where the agent can fetch it")
    try:
        return data.decode("utf-8-sig")  # some programs write a byte order mark, which is no part of the text
    except UnicodeDecodeError as error:
        utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        what = "; it is UTF-16: convert it first" if utf16 else ""
        raise MessageError(f"{source} is not UTF-8 text (byte {error.start}){what}") from None


def _json(text: str) -> "Json":
    data = text.removeprefix("\ufeff").encode(errors="surrogateescape")
    try:
        value = lazy.json_codec.decode(data)
        lazy.json_codec.refuse_changes(data)
    except MessageError as error:
        raise MessageError(f"the content is {error}; leave out --payload-fmt json to send it as text") from None
    return value
