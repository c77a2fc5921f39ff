"""Estimates, read-only, what a plan would save of a foreign deployment: `partitiond tools advise`.

Engines anywhere report on `/metrics` what they did. Some minutes of these reports yield demand and
lengths. The planner then packs the same demand onto the same devices.

    scraper       reads what engines report: HTTP GET alone
    readings      converts samples to one engine's reading
    observe       computes what one engine did between readings: restarts, gaps, lost looks
    lengths       converts histograms to means, variation and a workload
    traffic       sums engines by model: arrivals, and their rate with an interval
    identify      resolves served names to models that can be planned
    knowledge     finds profiles: measured ones transferred to the observed lengths, or estimates
    today         describes the devices, and which engine is on which
    advice        plans for the low, middle and high end of the demand; what each would free

The observation is a sample of the future demand, so every rate has a 95 % interval, and there are
three plans: a device is called free only if the plan for the high end does without it.
"""
