"""`partitiond demo`: every step of the product on this machine, for real and in small."""
