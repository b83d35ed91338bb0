"""The real worker, whose event loop stands still for ever once a task says so: `hanging_worker.py --config FILE`."""

import resource
import time

from agentbus_worker.__main__ import main
from agentbus_worker.settling.job import Job
from agentbus_worker.settling.slots import Reservation


def hang() -> None:
    run = Job.run

    async def hanging(job: Job, reservation: Reservation) -> None:
        if job.task.payload is not None and "block_the_loop" in str(job.task.payload.content):
            time.sleep(600)  # noqa: ASYNC251  # what is tested
        await run(job, reservation)

    setattr(Job, "run", hanging)  # noqa: B010
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it is going to be aborted


if __name__ == "__main__":
    hang()
    main()
