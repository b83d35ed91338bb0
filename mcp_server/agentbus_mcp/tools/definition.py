"""Makes a tool of a function: its title, hints and compact schemas as clients get them."""

import inspect
from collections.abc import Callable
from typing import Any, Final

from mcp.server.mcpserver.tools import Tool
from mcp_types import ToolAnnotations

from agentbus_mcp.replies.schemas import compact, outline

ALWAYS_LOADED: Final = {"anthropic/alwaysLoad": True}
"""For hosts that show a model only the names of most tools until it searches for them."""
# What these leave out is as the protocol assumes: the tools reach beyond the client's machine.
READS: Final = ToolAnnotations(read_only_hint=True)
ADDS: Final = ToolAnnotations(read_only_hint=False, destructive_hint=False)
CHANGES: Final = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True)


def define(
    function: Callable[..., Any], title: str, annotations: ToolAnnotations, meta: dict[str, Any] | None = None
) -> Tool:
    """Make a tool. Its name is that of the function, its description the docstring."""
    description = inspect.getdoc(function)
    tool = Tool.from_function(function, title=title, description=description, annotations=annotations, meta=meta)
    tool.parameters = compact(tool.parameters)
    tool.fn_metadata.output_schema = outline(tool.fn_metadata.output_schema or {})
    return tool
