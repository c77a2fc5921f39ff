"""`partitiond models`: register, change, show and remove models."""
