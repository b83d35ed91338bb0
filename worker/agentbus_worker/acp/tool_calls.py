"""What an agent says of a use of a tool: at its begin, in updates, and when it asks for a permission."""

import hashlib
import json
from typing import Final

from agentbus_worker.acp.json_values import Json, Object, object_in, text_in

_MOST: Final = 256
"""Uses of tools that are remembered at a time: an agent that begins more is not told apart any more."""
_FIELDS: Final = ("title", "kind", "rawInput", "locations", "_meta")


class ToolCalls:
    """The uses of tools of one session. An update, or a question, repeats only what has changed."""

    def __init__(self) -> None:
        self._known: dict[str, Object] = {}

    def note(self, call: Object) -> Object:
        """Take what the agent says of a use of a tool now; returns all that is known of it."""
        name = call_id(call)
        known = self._known.get(name, {})
        said = {field: call[field] for field in _FIELDS if call.get(field) not in (None, {}, "")}
        if said.get("kind") == "other" and "kind" in known:
            del said["kind"]  # OpenCode asks so for whatever it has called by its kind before
        merged = known | said
        if len(self._known) >= _MOST and name not in self._known:
            self._known.clear()
        self._known[name] = merged
        return merged

    def forget(self, call: Object) -> None:
        """Forget a use that has ended."""
        self._known.pop(call_id(call), None)


def call_id(call: Object) -> str:
    """Return what the agent calls this use of a tool."""
    return text_in(call.get("toolCallId"))


def tool_of(call: Object) -> str:
    """Return the name of the tool, where the agent tells it apart from what it does with it; else the kind of tool."""
    meta = object_in(call.get("_meta"))
    named = text_in(meta.get("toolName")) or text_in(object_in(meta.get("claudeCode")).get("toolName"))
    kind = text_in(call.get("kind"))
    return named or (kind if kind != "other" else "") or title_of(call) or "tool"


def title_of(call: Object) -> str:
    """Return what the tool is used for, in the words of the agent."""
    return text_in(call.get("title"))


def arguments_of(call: Object) -> Json:
    """Return the arguments of the tool; those that it shows a person where it sends no others."""
    raw = call.get("rawInput")
    if raw not in (None, {}, ""):
        return raw
    places = call.get("locations")
    return {"title": title_of(call), **({"locations": places} if places else {})}


def asked_arguments(call: Object, content: Json) -> Json:
    """Return what a person is shown, and what tells one question from another.

    An agent that sends no arguments shows what it would do, as the text of a change to a file.
    """
    arguments = arguments_of(call)
    return arguments if call.get("rawInput") not in (None, {}, "") or not content else {**arguments, "content": content}


def digest_of(arguments: Json) -> str:
    """Return what tells arguments from others, before any of them are cut.

    It is `agentbus.protocol.questions.question.digest_of`, which takes much longer to load.
    """
    whole = json.dumps(arguments, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(whole.encode(errors="surrogatepass")).hexdigest()
