"""`partitiond profile`: measure models, with the daemon or without, and show what was measured."""
