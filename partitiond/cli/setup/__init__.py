"""`partitiond setup`: the service, the engine's environment, backups and settings."""
