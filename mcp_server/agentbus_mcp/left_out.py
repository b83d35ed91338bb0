"""Leaves out of requests what hosts write in place of an argument that is not given: null, and the text "null"."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer

NULLS: Final = (None, "null")


class LeftOut:
    """A middleware of a server: calls of its tools and prompts reach it without the arguments that are not given.

    Hosts that must name every argument of a tool say so with null. One that a tool requires stays as it is, so that the
    error names it; what a prompt requires, the server names itself.
    """

    def __init__(self, server: MCPServer[Any]) -> None:
        self._server = server

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Serve one message."""
        params = {name: value for name, value in (ctx.params or {}).items() if value is not None}
        arguments = params.get("arguments")
        if isinstance(arguments, Mapping):
            optional = await self._optional(ctx.method, params.get("name"))
            params["arguments"] = _given(arguments, optional)  # pyright: ignore[reportUnknownArgumentType]
        return await call_next(ctx if ctx.params is None else replace(ctx, params=params))

    async def _optional(self, method: str, name: Any) -> Collection[str]:
        """Return the arguments in which null is what is left out."""
        if method == "tools/call":
            for tool in await self._server.list_tools():
                if tool.name == name:
                    return tool.input_schema.get("properties", {}).keys() - set(tool.input_schema.get("required", ()))
        elif method == "prompts/get":
            for prompt in await self._server.list_prompts():
                if prompt.name == name:
                    return [argument.name for argument in prompt.arguments or ()]
        return ()


def _given(arguments: Mapping[str, Any], optional: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in optional or value not in NULLS}
