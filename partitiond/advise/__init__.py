"""`partitiond tools advise`: what a plan would save of a deployment that is not ours, read-only.

Engines that run anywhere say on `/metrics` what they did. From some minutes of it (or from what a
Prometheus kept) follow demand, lengths, how much of the KV cache was ever used and how often an
engine had nothing to do. The planner then packs the same demand onto the same devices.

    sources/      looks: HTTP GET, NVML queries; nothing is started, stopped or set
    exposition    Prometheus text to samples
    readings      samples to what one engine said at one moment, whatever its version calls it
    observe       readings to what one engine did between them: restarts, gaps, lost looks
    lengths       histograms to means, variation and a workload
    traffic       engines to models: arrivals, their rate with an interval, the busiest window
    identify      served names to models that can be planned
    knowledge     profiles for them: measured ones carried to the observed lengths, else estimates
    today         devices, and which engine is on which
    advice        plans at the low, middle and high end of the demand; what each would free

What was seen is a sample of what will come, so every rate has a 95 % interval, and there are three
plans: a device is called free only when the plan for the high end does without it.
"""
