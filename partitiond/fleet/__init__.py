"""Fleet files: models, devices and workloads in one TOML file, and plans of them without a daemon.

`plan --from`, `up -f`, `tools simulate fleet` and advice read them.
"""
