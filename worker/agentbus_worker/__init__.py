"""The worker: takes durable tasks from the bus and runs any one-shot agent command for each."""
