"""Plans: placements of replicas on partitions, their certificate, and what applying them changes.

`record` is the plan; `answers`, `choices` and `kinds` hold what is asked beside it; `diff`,
`outage` and `start_order` say what applying it takes. The planner makes these records; the
controller, the API and the command line read them.
"""
