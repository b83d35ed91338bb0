"""The real worker, which fails while it reads some tasks: `faulty_worker.py --config FILE`.

It meets a fault of its own code, or a machine that refuses twice, or has no memory for a task once.
"""

from typing import Any

from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import InvalidIdError
from agentbus.protocol.messages import Task
from agentbus.tasks.incoming import Incoming
from agentbus_worker.__main__ import main
from agentbus_worker.running import task_command
from agentbus_worker.running.command import Exit
from agentbus_worker.settling import claim, job
from agentbus_worker.settling.outcome import Outcome


def fail() -> None:
    read, refusals = claim.read_delivery, [True, True]

    def failing(delivery: Delivery, agent: str, **more: Any) -> Incoming:
        if b"meet a fault" in delivery.data:
            raise ZeroDivisionError("a secret that was divided")
        if b"meet an error that does not belong here" in delivery.data:
            raise InvalidIdError("a secret that is no id")
        if b"meet a full disk" in delivery.data and refusals:
            refusals.pop()
            raise OSError(28, "No space left on device")
        return read(delivery, agent, **more)

    setattr(claim, "read_delivery", failing)  # noqa: B010
    build, map_exit, lacks = task_command.build_prompt, job.outcome_of_exit, [True]

    def build_without_memory(task: Task, **more: Any) -> str:
        prompt = build(task, **more)
        if "lack memory before" in prompt and lacks:
            lacks.pop()
            raise MemoryError
        return prompt

    def map_without_memory(ended: Exit, **more: Any) -> Outcome:
        if b"lacks memory after" in ended.stdout.head and lacks:
            lacks.pop()
            raise MemoryError
        return map_exit(ended, **more)

    setattr(task_command, "build_prompt", build_without_memory)  # noqa: B010
    setattr(job, "outcome_of_exit", map_without_memory)  # noqa: B010


if __name__ == "__main__":
    fail()
    main()
