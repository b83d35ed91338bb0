"""The settings with which git runs here: nothing that an agent, a repository or a user has set starts a program."""

import os
from collections.abc import Mapping
from typing import Final

_NOTHING: Final = "/dev/null"
"""Git itself takes this for the null device on Windows, too."""

_SETTINGS: Final = (
    f"core.hooksPath={_NOTHING}",
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    f"core.attributesFile={_NOTHING}",
    "core.pager=cat",
    "core.editor=false",
    "core.askPass=",
    "core.quotePath=false",
    "commit.gpgSign=false",
    "tag.gpgSign=false",
    "gpg.program=false",
    "gpg.ssh.program=false",
    "gpg.x509.program=false",
    "diff.external=",
    "diff.ignoreSubmodules=all",  # looking into one runs git with the settings of a repository of the agent
    "merge.renormalize=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "fetch.fsckObjects=true",  # what another party made is checked before it is taken in
    "transfer.fsckObjects=true",
    "protocol.ext.allow=never",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.detachedHead=false",
    "init.defaultBranch=main",
    "pack.threads=1",
    "pack.windowMemory=64m",  # with the next one: what an agent has made does not decide how much memory is taken
    "core.bigFileThreshold=16m",
)
_ENVIRONMENT: Final = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": _NOTHING,
    "GIT_CONFIG_GLOBAL": _NOTHING,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
}
"""Keeps out the configuration of the system and of the user, and what the one of a repository says of ssh."""
_ALWAYS: Final = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS": "",
    "SSH_ASKPASS_REQUIRE": "never",
    "GCM_INTERACTIVE": "never",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",  # of a partial clone: what is missing would be fetched with its own settings
    "GIT_PAGER": "cat",
    "GIT_EDITOR": "false",
    "GIT_SEQUENCE_EDITOR": "false",
    "GIT_LITERAL_PATHSPECS": "1",  # a file may be called `:(top)` or `*`
    "LC_ALL": "C",
    "LANGUAGE": "C",
}


def options() -> list[str]:
    """Return the options that stand before the command: they go before what any configuration file says."""
    return ["--no-pager", *(word for setting in _SETTINGS for word in ("-c", setting))]


def environment(*, of_user: bool, more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a command.

    Args:
        of_user: whether git reads the configuration of the system and of the user, which may say how to sign in at a
            server. Only for a command that reads and writes nothing of another party but what it fetches.
        more: further variables.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("GIT_", "AGENTBUS_")) or (of_user and name in _OF_USER)
    }
    own = _ALWAYS if of_user else {**_ALWAYS, **_ENVIRONMENT}
    return {**inherited, **own, **more}


_OF_USER: Final = (
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSL_CAINFO",
)
"""Where a user has put the configuration, and how a server is reached. No terminal is there for ssh to ask on."""
