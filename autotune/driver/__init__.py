"""The orchestrator's side of worker processes: start a worker, send requests to it, end it."""
