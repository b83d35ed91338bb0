"""Tells what a service that runs as another user, or in a sandbox, cannot read, before it fails to start."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from agentbus.config.schema import SECRET_FILES
from agentbus.provision.services.worker_service import WorkerService

_PRIVATE: Final = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108  # compared, not used
"""The folders of which PrivateTmp= gives a service its own."""


def cannot_be_read(service: WorkerService, *, private_tmp: bool) -> list[str]:
    """Return a sentence for each file and folder that the service needs and its user cannot read.

    Args:
        private_tmp: whether the unit has a /tmp of its own.
    """
    needed = dict(_needed(service))
    hidden = [path for path in needed if private_tmp and any(map(path.is_relative_to, _PRIVATE))]
    return [_is_hidden(path, needed[path]) for path in hidden] or _closed_to(service.user, needed)


def _is_hidden(path: Path, what: str) -> str:
    return (
        f"{path} ({what}) lies in a folder of which the unit has its own: the worker will not find it; "
        "move it, such as to /etc/agentbus"
    )


def _closed_to(name: str, needed: Mapping[Path, str]) -> list[str]:
    import grp  # noqa: PLC0415  # POSIX only, like the service managers
    import pwd  # noqa: PLC0415

    try:
        user = pwd.getpwnam(name)
    except KeyError:
        return [f"there is no user {name} on this machine yet; make it, or name another one with --user"]
    groups = {user.pw_gid, *(group.gr_gid for group in grp.getgrall() if name in group.gr_mem)}
    said = list[str]()
    for path, what in needed.items():
        if (obstacle := _obstacle(path, user.pw_uid, groups)) is not None:
            at = "" if obstacle == path else f": {obstacle} is closed to it"
            said.append(f"the user {name} cannot read {path} ({what}){at}")
    return said


def _needed(service: WorkerService) -> Iterator[tuple[Path, str]]:
    config = service.config
    yield service.config_file, "the configuration"
    for key in (*SECRET_FILES, "ca_file", "cert_file", "key_file"):
        if (path := getattr(config.nats, key)) is not None:
            yield path, key
    if (folder := service.folder or config.agent.folder) is not None:
        yield folder, "where the agent works"


def _obstacle(path: Path, uid: int, groups: set[int]) -> Path | None:
    """Return what keeps a user from a path: a folder on the way, or the path itself; None if nothing does."""
    for place in [*reversed(path.parents), path]:
        try:
            status = place.stat()
        except OSError:
            return place
        wanted = stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else stat.S_IROTH
        if not _may(status, wanted, uid, groups):
            return place
    return None


def _may(status: os.stat_result, wanted: int, uid: int, groups: set[int]) -> bool:
    """Return whether a user has a right, which is given as that of all others."""
    if uid == 0:
        return True
    shift = 6 if status.st_uid == uid else 3 if status.st_gid in groups else 0
    return bool(status.st_mode & (wanted << shift))
