"""The orchestrator's side of worker processes: how one is started, asked and ended."""
