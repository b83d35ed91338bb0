"""The buckets of what tasks bring: bounded, made in the room that is left, and giving way to what work needs."""

from contextlib import suppress
from pathlib import Path

from agentbus import connect
from agentbus.bus.inputs.buckets import compare_inputs, remove_unused_inputs, set_up_inputs, shrink_inputs
from agentbus.bus.inputs.wanted import LEAST_BYTES, MOST_BYTES, size_for
from agentbus.bus.setup import set_up
from agentbus.errors import StreamFullError
from agentbus.protocol.work import input_names
from agentbus.provision.nats_server import run_server
from agentbus.tasks.work.input_store import put_input
from support.in_pieces import in_pieces

STREAM = input_names.stream("one")
MIB = 1 << 20


def test_all_buckets_together_have_a_small_part_of_the_storage() -> None:
    assert [size_for(agents, 10 << 30) for agents in (1, 2, 100, 10_000)] == [
        256 * MIB,
        128 * MIB,
        4 * MIB,
        LEAST_BYTES,
    ]
    assert size_for(100, -1) == MOST_BYTES


async def test_a_bucket_gives_what_it_does_not_use_and_gets_it_again(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:-1"\njetstream {{ store_dir: "{tmp_path / "s"}", max_file_store: 1GB }}\n'
        "accounts { BUS { jetstream: { max_file: 100MiB, max_memory: 10MB }, users: [ { user: a, password: b } ] } }\n"
        "no_auth_user: a\n",
        encoding="utf-8",
    )
    async with run_server(store=tmp_path / "nats", config=config) as server, connect(server.url) as bus:
        found = {item.name: item for item in await set_up(bus.bus, ["one"])}
        assert (found[STREAM].kind, found[STREAM].outcome, found[STREAM].differences) == ("inputs", "made", ())
        info = await bus.bus.stream_info(STREAM)
        assert (info.max_bytes, info.config["discard"]) == (4 * MIB, "new")
        sent = await put_input(bus.bus, "one", "main", "x", in_pieces(*(b"x" * 500_000 for _ in range(4))))
        assert sent.bytes == 2_000_000
        await shrink_inputs(bus.bus)
        shrunk = (await bus.bus.stream_info(STREAM)).max_bytes
        assert 2_000_000 < shrunk < 3_000_000
        for number in range(60):
            with suppress(StreamFullError):
                body = {"name": f"X{number}", "subjects": [f"x.{number}"], "max_bytes": 16 * MIB >> number // 5}
                await bus.bus.api(f"STREAM.CREATE.X{number}", body)
        [missing] = await set_up_inputs(bus.bus, ["two"], 100 * MIB, 1, update=False)
        assert missing.outcome == "missing"
        assert "so no task can bring files" in missing.differences[0]
        [left] = await set_up_inputs(bus.bus, ["one"], 100 * MIB, 1, update=False)
        assert (left.outcome, (await bus.bus.stream_info(STREAM)).max_bytes) == ("found", shrunk)
        for name in await bus.bus.stream_names():
            if name.startswith("X"):
                await bus.bus.api(f"STREAM.DELETE.{name}")
        await set_up_inputs(bus.bus, ["two"], 100 * MIB, 1, update=False)
        await set_up_inputs(bus.bus, ["one"], 100 * MIB, 1, update=False)
        assert (await bus.bus.stream_info(STREAM)).max_bytes == 4 * MIB
        changed = {**(await bus.bus.stream_info(STREAM)).config, "max_age": 0}
        await bus.bus.api(f"STREAM.UPDATE.{STREAM}", changed)
        [different] = await compare_inputs(bus.bus, ["one"])
        assert different.differences == ("max_age is 0 s, wanted 1209600 s",)
        [updated] = await set_up_inputs(bus.bus, ["one"], 100 * MIB, 1, update=True)
        assert updated.outcome == "updated"
        await remove_unused_inputs(bus.bus)
        names = await bus.bus.stream_names()
        assert (STREAM in names, input_names.stream("two") in names) == (True, False)
