"""`python -m agentbus` is `agentbus`."""

from agentbus.cli import main

if __name__ == "__main__":
    main()
