"""The coordinator: the ServerApp and what it writes."""
