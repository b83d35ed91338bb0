"""`python -m agentbus_worker.acp COMMAND…` is the driver of an agent that speaks the Agent Client Protocol."""

import sys

from agentbus_worker.acp.driver import main

if __name__ == "__main__":
    main(sys.stdin.buffer.read(), sys.argv[1:])
