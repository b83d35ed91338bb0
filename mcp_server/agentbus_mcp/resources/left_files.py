"""The resources that are files which runs have left: each has its own media type."""

from typing import Any, TypeAlias

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, UnexpectedResourceError
from mcp.server.mcpserver.resources import FunctionResource
from mcp.server.mcpserver.resources.templates import ResourceTemplate

from agentbus.errors import AgentBusError, InvalidIdError, TaskNotFoundError
from agentbus.protocol.work.results import BINARY, Artifact
from agentbus_mcp import sdk, uris
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.operations.left_files import is_text, read_left_file

LeftFile: TypeAlias = tuple[Artifact, str | bytes]


def add_left_files(server: MCPServer[Any], bus_link: BusLink) -> None:
    """Have a server offer the files that runs have left."""

    async def file(agent: str, task_id: str, name: str) -> LeftFile:
        return await _read(bus_link, name, task_id, agent)

    async def file_of_owner(agent: str, owner: str, task_id: str, name: str) -> LeftFile:
        return await _read(bus_link, name, task_id, agent, owner)

    async def file_by_id(task_id: str, name: str) -> LeftFile:
        return await _read(bus_link, name, task_id)

    of_another = "The same of a task that another coordinator than `main` has published."
    for uri, name, title, function, text in (
        (uris.FILE, "file", "File of a task", file, "A file that the run of a task has left, with its media type."),
        (uris.FILE_OF_OWNER, "file-of-owner", "File of a coordinator's task", file_of_owner, of_another),
        (uris.FILE_BY_ID, "file-by-id", "File of a task by its id", file_by_id, "The same by the id alone."),
    ):
        made = _FileTemplate.from_function(function, uri, name=name, title=title, description=text, mime_type=BINARY)
        sdk.add_template(server, made)


class _FileTemplate(ResourceTemplate):
    """A template whose function says the media type as well."""

    async def create_resource(self, uri: str, params: dict[str, Any], context: Context[Any, Any]) -> FunctionResource:  # noqa: ARG002
        try:
            artifact, content = await self.fn(**params)
        except AgentBusError as error:
            raise UnexpectedResourceError(f"cannot read {uri[:200]}") from error  # the server words its cause

        async def read() -> str | bytes:
            return content

        return FunctionResource(uri=uri, name=self.name, mime_type=artifact.media_type, fn=read)


async def _read(
    bus_link: BusLink, name: str, task_id: str, agent: str | None = None, owner: str | None = None
) -> LeftFile:
    coordinator = await bus_link.coordinator()
    try:
        status = await coordinator.task(task_id, agent=agent, owner=owner).status()
    except (TaskNotFoundError, InvalidIdError) as error:
        raise ResourceNotFoundError(str(error)) from error
    artifact, content = await read_left_file(coordinator, status, name)
    return artifact, _text(content) if is_text(artifact.media_type) else content


def _text(content: bytes) -> str | bytes:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content  # as bytes it arrives as it is
