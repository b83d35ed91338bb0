"""Completes the commands that errors and remedies name with the options by which this command has reached its bus.

`agentbus setup` alone would look for the bus in the usual places, and make the streams of another one.
"""

import re
import shlex
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from agentbus.config.schema import NatsSection

_SETUP: Final = re.compile(r"\bagentbus setup\b(?! --(?:config|nats-url))")
_options = ""


def reached_by(nats_url: "str | None", config: "Path | None", nats: "NatsSection") -> None:
    """Note how this command reaches its bus, as its user said.

    A file is noted where an administrator's command can use it: that of the administrator, and one without
    credentials. A URL with a secret is not.
    """
    from agentbus.config.loading import secret_in  # noqa: PLC0415  # usage errors need none of it
    from agentbus.protocol.permissions import ADMINISTRATOR  # noqa: PLC0415
    from agentbus.protocol.subjects import inbox_prefix  # noqa: PLC0415

    global _options  # noqa: PLW0603  # one command runs in a process
    _options = ""
    if nats_url:
        _options = "" if secret_in(nats_url) else f" --nats-url {shlex.quote(nats_url)}"
    elif config is not None:
        signs_in = nats.user or nats.token_file or nats.nkey_file or nats.creds_file
        if not signs_in or nats.inbox_prefix == inbox_prefix(ADMINISTRATOR):
            _options = f" --config {shlex.quote(str(config))}"


def with_bus(text: str) -> str:
    """Return a text in which `agentbus setup` has the options of the bus that this command has reached."""
    return _SETUP.sub(lambda found: found[0] + _options, text) if _options else text
