"""Moves the queue of a bus of the older layout into an account of its own, while the bus runs.

The stream is copied by a snapshot, with its sequences and the progress of its consumers, and deleted where it was. From
the moment that the server has read the new accounts, parties reach the new account only. So what is copied does not
change any more, and until the copy is complete, publishing is refused and the tasks wait. An acknowledgement that is
sent meanwhile is lost: that task is delivered once more, and the ledger says that it is done.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from agentbus.admin.backup import StreamCopy, copy_stream
from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import StreamInfo
from agentbus.errors import BusError, SetupMissingError
from agentbus.protocol import subjects

_STREAM: Final = subjects.TASKS_STREAM


async def check_room(bus: Bus, percent_of_queue: int) -> None:
    """Check that what the streams reserve and hold fits into the two accounts that are to share the storage.

    Raises:
        BusError: it does not; nothing was changed.
    """
    granted = (await bus.account_info()).max_storage_bytes
    if granted < 0:
        return
    of_queue = granted * percent_of_queue // 100
    taken = {name: _taken(await bus.stream_info(name)) for name in await bus.stream_names()}
    # Until it is moved, the queue lies in the account of the others, which may have less by then.
    for what, needed, share in (
        ("the stream of tasks", taken.get(_STREAM, 0), of_queue),
        ("all streams together", sum(taken.values()), granted - of_queue),
    ):
        if needed > share:
            raise BusError(
                f"{what} may take {needed >> 20} MiB, and would get {share >> 20} MiB: raise max_file in bus.toml and "
                "max_file_store in nats-server.conf, and restart the server; or lower the max_bytes of the streams"
            )


def _taken(info: StreamInfo) -> int:
    """The bytes that a stream reserves or holds, over all its replicas."""
    return max(info.max_bytes, info.state.bytes) * max(1, info.num_replicas)


async def move_queue(source: Bus, target: Bus) -> StreamCopy | None:
    """Copy the queue from one account into the other, and delete it where it was; returns None if it is moved already.

    It can be repeated after it was interrupted at any point.

    Raises:
        SetupMissingError: neither account has it.
        BusError: the copy holds less than the original, which was left.
    """
    try:
        original = await source.stream_info(_STREAM)
    except SetupMissingError:
        await target.stream_info(_STREAM)
        return None
    copied = None
    if not await _has_queue(target):
        with TemporaryDirectory(prefix="agentbus-upgrade-") as folder:
            copied = await copy_stream(source, target, _STREAM, Path(folder) / _STREAM)
    copy = await target.stream_info(_STREAM)
    if copy.state.last_seq < original.state.last_seq:
        raise BusError(
            f"{_STREAM} in the new account ends at {copy.state.last_seq}, and the original at "
            f"{original.state.last_seq}; both were left. Look at them before you delete one"
        )
    await source.api(f"STREAM.DELETE.{_STREAM}")
    return copied or StreamCopy(_STREAM, copy.state.messages, copy.state.bytes)


async def _has_queue(bus: Bus) -> bool:
    try:
        await bus.stream_info(_STREAM)
    except SetupMissingError:
        return False
    return True
