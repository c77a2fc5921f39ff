"""`partitiond plan`, `apply` and `up`, and how plans are drawn."""
