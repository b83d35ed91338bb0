"""The real worker, which keeps what it has taken ahead for half a minute: `patient_worker.py worker run …`."""

from agentbus_worker.__main__ import main
from agentbus_worker.settling import slots

if __name__ == "__main__":
    setattr(slots, "_AHEAD_S", 30.0)  # noqa: B010  # it is not for anybody else to change
    main()
