"""`partitiond keys`: API keys and their usage."""
