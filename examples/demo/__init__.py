"""Shows every step of partitiond on one machine, for real and in small: `make demo`."""
