"""The inner loops of the search, compiled ahead of time (`partitiond.native`)."""
