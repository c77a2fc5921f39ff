"""`partitiond tools`: estimates, transfers, replication, advice and simulations."""
