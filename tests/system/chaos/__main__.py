"""`python -m chaos [--seeds 1-10]`: storms, their accounts, and exit code 1 if anything is wrong."""

import argparse
import asyncio
import platform
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from system.chaos.plan import broken, clustered, clustered_short, full, short
from system.chaos.record import Record, Run, server_version
from system.chaos.storm import run_storm


def _say(text: str) -> None:
    print(text, flush=True)


def seeds_of(text: str) -> list[int]:
    """The numbers in `1-3 7,9`; raises ValueError."""
    return list(dict.fromkeys(number for part in text.replace(",", " ").split() for number in _range(part)))


def _range(part: str) -> Iterator[int]:
    first, _, last = part.partition("-")
    yield from range(int(first), int(last or first) + 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description="Storm-test real workers on a real server.")
    parser.add_argument("--seeds", type=seeds_of, help="of the tasks and the faults: 1-10 or 3,7 (one by chance)")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--short", action="store_true", help="the one that the tests run")
    kinds.add_argument("--cluster", action="store_true", help="over three servers that lose their leaders")
    kinds.add_argument("--cluster-short", action="store_true", help="the one of these that the tests run")
    kinds.add_argument("--broken", action="store_true", help="with workers that acknowledge first: tasks get lost")
    parser.add_argument(
        "--one-account", action="store_true", help="one server with one account and one ledger, as agentbus up has"
    )
    parser.add_argument("--keep", action="store_true", help="keep the logs though nothing is wrong")
    parser.add_argument("--record", type=Path, help="a file with earlier runs: seeds that went well there are left out")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    record = Record(arguments.record)
    plans = {"short": short, "cluster": clustered, "cluster_short": clustered_short, "broken": broken}
    make_plan = next((plan for name, plan in plans.items() if vars(arguments)[name]), full)
    _say(f"nats-server {server_version()}, Python {platform.python_version()}")
    for seed in arguments.seeds or [random.randrange(1_000_000)]:
        plan = replace(make_plan(seed), one_account=arguments.one_account)
        if record.earlier(plan):
            _say(f"seed {seed}: went well before, on this source and this server")
            continue
        _say(
            f"seed {seed}: {plan.tasks} tasks, {len(plan.all_agents)} agents with {plan.replicas} workers each, "
            f"{plan.storm_s:g} s of storm, a lease of {plan.lease_s:g} s"
        )
        began = time.monotonic()
        account = asyncio.run(run_storm(plan, say=_say, keep=True if arguments.keep else None))
        record.add(Run.of(plan, account))
        _say(f"\nafter {time.monotonic() - began:.0f} s, seed {seed}:\n{account.table()}")
        _say(f"\n{account.faults()}\n" if account.wrong else "\nevery task has its one result, and nothing is left\n")
    _say(record.table())
    return 1 if any(run.wrong for run in record.runs) else 0


if __name__ == "__main__":
    sys.exit(main())
