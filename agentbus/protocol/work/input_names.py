"""Names of what tasks bring to an agent: its bucket, and the subjects of the objects in it, which name their owner."""

from agentbus.protocol import subjects


def stream(agent: str) -> str:
    """The stream behind the bucket of one agent."""
    return f"OBJ_{bucket(agent)}"


def bucket(agent: str) -> str:
    """The object store of one agent: coordinators write it, and its workers read it."""
    return f"AGENT_INPUTS_{agent}"


def chunks(agent: str, nuid: str, owner: str) -> str:
    """Where the chunks of one object lie that a task of `owner` brings to an agent; `>` for those of all objects.

    The owner always stands in it, that of `main` too: so each coordinator can be let write its own alone.
    """
    return f"$O.{bucket(agent)}.C.{_owner(owner)}.{nuid}"


def meta(agent: str, encoded_name: str, owner: str) -> str:
    """Where the description of one such object lies; its name is written in URL-safe base64."""
    return f"$O.{bucket(agent)}.M.{_owner(owner)}.{encoded_name}"


def all_metas(agent: str) -> str:
    """Where the descriptions of all objects of an agent lie."""
    return subjects.all_metas(bucket(agent))


def _owner(owner: str) -> str:
    return f"~{owner}"
