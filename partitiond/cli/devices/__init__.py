"""`partitiond devices`: devices, cordons and MIG instances."""
