"""`partitiond profile`: measure models and show what was measured."""
