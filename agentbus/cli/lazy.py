"""Imports the modules that commands work with at their first use: `lazy.backup.restore(...)`.

Most of them need asyncio, nats-py, pydantic or rich. A module that declares a command must not import those, because
help, usage errors and completion would wait for them.
"""

# The imports are used by the modules of the commands.
# pyright: reportUnusedImport=false
# ruff: noqa: F401

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    import pathlib

    from agentbus import task_handle
    from agentbus.admin import (
        audit_log,
        backup,
        consumers,
        dead_letters,
        overview,
        retired_parties,
        server_versions,
    )
    from agentbus.admin.doctor import check_context, configuration, finding, run_checks
    from agentbus.bus import replicas, setup
    from agentbus.bus.wanted import retention
    from agentbus.cli import completing, fitted_table, past_times, session, waiting_tasks
    from agentbus.cli.coordinator import (
        cost_report,
        figures,
        inbox_line,
        publish_lines,
        question_list,
        task_log,
        task_search,
    )
    from agentbus.cli.coordinator.events import notifying, watching
    from agentbus.cli.coordinator.publishing import answer, awaited, following, new_agents
    from agentbus.cli.coordinator.showing import agent_rows, page, task_rows, task_view, worker_rows
    from agentbus.cli.coordinator.watching import live_top
    from agentbus.cli.demo import scenario
    from agentbus.cli.operator import foreign_consumers, local_bus, upgrade
    from agentbus.cli.work import diff_text, summary
    from agentbus.config import home, loading, mcp_tokens, storage_sizes
    from agentbus.protocol import json_codec, task_names
    from agentbus.protocol.listed import labels
    from agentbus.protocol.questions import question_ids
    from agentbus.protocol.work import results
    from agentbus.provision import agent_presets, bundle, join, mcp_token_file, nats_server
    from agentbus.provision.bus_folder import folder, new_bus, server_certificates, server_folder
    from agentbus.provision.plugin import plugin_files, plugin_folder
    from agentbus.provision.services import choice, worker_service
    from agentbus.tasks import agent_pauses, follow_ups
    from agentbus.tasks.events import task_event
    from agentbus.tasks.listing import spending, task_list, wanted
    from agentbus.tasks.progress import last
    from agentbus.tasks.queue import queued_content
    from agentbus.tasks.work import applying, artifacts, attachments, comparison, own_repository, sending
else:
    _PACKAGES = {
        "agentbus.admin": [
            "audit_log", "backup", "consumers", "dead_letters", "overview", "retired_parties", "server_versions",
        ],
        "agentbus.admin.doctor": ["check_context", "configuration", "finding", "run_checks"],
        "agentbus.bus": ["replicas", "setup"],
        "agentbus.bus.wanted": ["retention"],
        "agentbus": ["task_handle"],
        "agentbus.cli": ["completing", "fitted_table", "past_times", "session", "waiting_tasks"],
        "agentbus.cli.coordinator": [
            "cost_report", "figures", "inbox_line", "publish_lines", "question_list", "task_log",
            "task_search",
        ],
        "agentbus.cli.coordinator.events": ["notifying", "watching"],
        "agentbus.cli.coordinator.publishing": ["answer", "awaited", "following", "new_agents"],
        "agentbus.cli.coordinator.showing": ["agent_rows", "page", "task_rows", "task_view", "worker_rows"],
        "agentbus.cli.coordinator.watching": ["live_top"],
        "agentbus.cli.demo": ["scenario"],
        "agentbus.cli.operator": ["foreign_consumers", "local_bus", "upgrade"],
        "agentbus.cli.work": ["diff_text", "summary"],
        "agentbus.config": ["home", "loading", "mcp_tokens", "storage_sizes"],
        "agentbus.protocol": ["json_codec", "task_names"],
        "agentbus.protocol.listed": ["labels"],
        "agentbus.protocol.questions": ["question_ids"],
        "agentbus.protocol.work": ["results"],
        "agentbus.provision": ["agent_presets", "bundle", "join", "mcp_token_file", "nats_server"],
        "agentbus.provision.bus_folder": ["folder", "new_bus", "server_certificates", "server_folder"],
        "agentbus.provision.plugin": ["plugin_files", "plugin_folder"],
        "agentbus.provision.services": ["choice", "worker_service"],
        "agentbus.tasks": ["agent_pauses", "follow_ups"],
        "agentbus.tasks.events": ["task_event"],
        "agentbus.tasks.listing": ["spending", "task_list", "wanted"],
        "agentbus.tasks.progress": ["last"],
        "agentbus.tasks.queue": ["queued_content"],
        "agentbus.tasks.work": [
            "applying", "artifacts", "attachments", "comparison", "own_repository", "sending",
        ],
    }  # fmt: skip
    _PATHS = {"asyncio": "asyncio", "pathlib": "pathlib"} | {
        name: f"{package}.{name}" for package, names in _PACKAGES.items() for name in names
    }

    def __getattr__(name: str) -> object:
        if name not in _PATHS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_module(_PATHS[name])
