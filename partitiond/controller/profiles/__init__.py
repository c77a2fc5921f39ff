"""Profile jobs and kept profiles: what is measured, on which partition, and what is kept.

`jobs` is the queue, `leases` lends partitions to it, `profiling` runs one job, `catalog` keeps the
results and `derived` predicts others from them.
"""
