"""`python -m chaos [--seed N] [--short]`: a storm, its account, and exit code 1 if anything is wrong."""

import argparse
import asyncio
import random
import sys
import time

from chaos.plan import broken, full, short
from chaos.storm import run_storm


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos", description="Storm-test real workers on a real server.")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of the tasks and the faults")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--short", action="store_true", help="the one that the tests run")
    kinds.add_argument("--broken", action="store_true", help="with workers that acknowledge first: tasks get lost")
    parser.add_argument("--keep", action="store_true", help="keep the logs though nothing is wrong")
    arguments = parser.parse_args()
    plan = (short if arguments.short else broken if arguments.broken else full)(arguments.seed)
    _say(
        f"seed {plan.seed}: {plan.tasks} tasks, {len(plan.agents)} agents with {plan.replicas} workers each, "
        f"{plan.storm_s:g} s of storm, a lease of {plan.lease_s:g} s"
    )
    began = time.monotonic()
    account = asyncio.run(run_storm(plan, say=_say, keep=True if arguments.keep else None))
    _say(f"\nafter {time.monotonic() - began:.0f} s, seed {plan.seed}:\n{account.table()}")
    if account.wrong:
        _say(f"\n{account.faults()}")
        return 1
    _say("\nevery task has its one result, and nothing is left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
