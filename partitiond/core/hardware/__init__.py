"""Describes devices and their partitions: kinds of GPU and CPU, health, sharing modes, room.

`kinds` has the records, `gpus` and `cpus` the catalog, `lookup` finds an entry by the name that a
user writes. All packages read these records; adapters in `partitiond.devices` fill them in.
"""
