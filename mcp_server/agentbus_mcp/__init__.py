"""The MCP server: hand tasks to agents over the bus, watch for their results, read them."""
