"""Estimates, read-only, what a plan would save of a foreign deployment: `partitiond tools advise`.

Engines anywhere report on `/metrics` what they did. Two looks, some minutes apart, yield demand and
lengths. The planner then packs the same demand onto the same devices.

    scraper       takes one look: HTTP GET alone
    metrics       reads an engine's counters and histograms from a look
    lengths       converts histograms to means, variation and a workload
    traffic       computes what each model got between two looks: its rate with an interval
    identify      resolves served names to models that can be planned
    today         describes the devices, and which engine is on which
    advice        plans for the high end of the demand; what that would free

What was seen is a sample of the future demand, so every rate has a 95 % interval. The plan is for
its high end: a device is called free only if that plan does without it.
"""
