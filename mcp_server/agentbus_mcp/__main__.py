"""`python -m agentbus_mcp` is `agentbus-mcp`."""

from agentbus_mcp.cli import main

if __name__ == "__main__":
    main()
