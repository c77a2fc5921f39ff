"""Profile jobs and kept profiles: what is measured, on which partition, and what is kept.

`jobs` is the queue, `job_room` lends partitions to it (`core.replica.leases`), `profiling` runs one
job, and `catalog` keeps the results.
"""
