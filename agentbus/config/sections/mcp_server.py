"""What the configuration of a worker may say of an MCP server that its agent gets."""

from typing import Any, Literal

from pydantic import Field, model_validator

from agentbus.config.schema import Section


class McpServer(Section):
    """An MCP server that an agent of the Agent Client Protocol gets with its session: a command, or a URL."""

    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict, repr=False)
    url: str = ""
    transport: Literal["http", "sse"] = "http"
    headers: dict[str, str] = Field(default_factory=dict, repr=False)

    @model_validator(mode="after")
    def _check(self) -> "McpServer":
        if bool(self.command) == bool(self.url):
            raise ValueError("an MCP server has a command or a url")
        if (self.url and (self.args or self.env)) or (self.command and self.headers):
            raise ValueError("args and env go with command, headers with url")
        return self

    def for_session(self, name: str) -> dict[str, Any]:
        """Return it as the protocol has it."""
        if self.url:
            return {"type": self.transport, "name": name, "url": self.url, "headers": _pairs(self.headers)}
        return {"name": name, "command": self.command, "args": list(self.args), "env": _pairs(self.env)}


def _pairs(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]
