"""The streams with what runs do fit into the storage, give way to each other, and stop no work where they do not."""

from contextlib import suppress
from pathlib import Path

from agentbus import connect
from agentbus.bus.progress.streams import set_up_progress
from agentbus.bus.progress.wanted import LEAST_BYTES, MOST_BYTES, size_for
from agentbus.bus.setup import set_up
from agentbus.errors import StreamFullError
from agentbus.protocol.progress import names
from agentbus.provision.nats_server import run_server
from support.server_version import server_version


def test_all_agents_share_a_bounded_part_of_the_storage():
    granted = 10 << 30
    assert size_for(1, -1) == size_for(1_000, -1) == size_for(40, granted) == MOST_BYTES
    for agents in (1, 50, 60, 100, 500, 1_000):
        assert size_for(agents, granted) * agents <= granted * 0.04
    assert size_for(100_000, granted) == LEAST_BYTES
    sizes = [size_for(agents, granted) for agents in range(1, 1_000)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) <= 6, "one more agent hardly ever changes the streams of the others"


async def test_streams_get_smaller_for_more_agents_and_what_does_not_fit_is_said(tmp_path: Path):
    config = tmp_path / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:-1"\njetstream {{ store_dir: "{tmp_path / "s"}", max_file_store: 1GB }}\n'
        "accounts { BUS { jetstream: { max_file: 100MiB, max_memory: 10MB }, users: [ { user: a, password: b } ] } }\n"
        "no_auth_user: a\n",
        encoding="utf-8",
    )
    async with run_server(store=tmp_path / "nats", config=config) as server, connect(server.url) as bus:
        found = {item.name: item for item in await set_up(bus.bus, ["one"])}
        assert found[names.stream("one")].outcome == "made"
        info = await bus.bus.stream_info(names.stream("one"))
        assert (info.max_bytes, info.num_replicas, info.config["discard"]) == (4 << 20, 1, "old")
        written = "async" if server_version() >= (2, 12) else None  # an older server knows no such mode
        assert info.config.get("persist_mode") == written, "no message of a run is synced by itself"
        more = await set_up_progress(bus.bus, ["one", "two"], 100 << 20, update=False)
        assert [item.outcome for item in more] == ["found", "made"]
        assert (await bus.bus.stream_info(names.stream("one"))).max_bytes == 2 << 20
        changed = {**info.config, "max_bytes": 2 << 20, "max_age": 0}
        await bus.bus.api(f"STREAM.UPDATE.{names.stream('one')}", changed)
        [different] = await set_up_progress(bus.bus, ["one"], 100 << 20, update=False)
        assert (different.outcome, different.differences) == ("different", ("max_age is 0 s, wanted 259200 s",))
        [updated] = await set_up_progress(bus.bus, ["one"], 100 << 20, update=True)
        assert updated.outcome == "updated"
        await bus.bus.api("STREAM.DELETE.OBJ_AGENT_INPUTS_one")  # it would give way first
        for number in range(100):
            with suppress(StreamFullError):
                body = {"name": f"X{number}", "subjects": [f"x.{number}"], "max_bytes": 16 << 20 >> number // 5}
                await bus.bus.api(f"STREAM.CREATE.X{number}", body)
        [missing] = await set_up_progress(bus.bus, ["three"], 100 << 30, update=False)
        assert missing.outcome == "missing"
        assert "there is no room" in missing.differences[0]
        kept = await set_up(bus.bus, ["one"], files_limit=3 << 20)
        assert (await bus.bus.stream_info("OBJ_AGENT_FILES_one")).max_bytes == 3 << 20, "what runs tell gives way to it"
        assert [item.outcome for item in kept if item.kind == "progress"] == ["found"]
        sizes = [(await bus.bus.stream_info(names.stream(agent))).max_bytes for agent in ("one", "two")]
        assert sizes == [512 << 10, 512 << 10], "and takes what is left"
        await bus.bus.api("STREAM.DELETE.X5")
        await set_up(bus.bus, ["one"])
        sizes = [(await bus.bus.stream_info(names.stream(agent))).max_bytes for agent in ("one", "two")]
        assert sizes == [2 << 20, 2 << 20]
