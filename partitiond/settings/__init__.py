"""Settings: one schema for the TOML file, the environment and the flags.

`schema` has the tables; `sources` reads, merges and explains them, `reload` says which take effect
without a restart.
"""
