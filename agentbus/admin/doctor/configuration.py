"""Loads the configuration that a role would use, and says where it comes from."""

import os
from pathlib import Path

from agentbus.admin.doctor.check_context import Role, RoleConfig
from agentbus.config.loading import URL_VARIABLE, coordinator_file, load_coordinator, load_worker, worker_file


def load(role: Role, *, nats_url: str | None = None, path: Path | None = None) -> tuple[RoleConfig, str, list[str]]:
    """Return the configuration of a role, where it comes from, and what a person should be warned of.

    Raises:
        ConfigError: it cannot be used.
    """
    if role == "worker":
        config, warnings = load_worker(path)
        return config, str(path or worker_file()), warnings
    config, warnings = load_coordinator(nats_url=nats_url, path=path)
    return config, _source(nats_url, path), warnings


def _source(nats_url: str | None, path: Path | None) -> str:
    if nats_url:
        return "--nats-url"
    if path is not None:
        return str(path)
    if os.environ.get(URL_VARIABLE):
        return URL_VARIABLE
    return str(coordinator_file() or "the local bus of `agentbus up`")
