"""The worker: takes durable tasks from the bus, and runs an agent command for each."""
