"""Prometheus metrics of the control plane.

`family` describes one metric, `snapshot` samples it; the endpoint's own are in
`proxy.telemetry.families`.
"""
