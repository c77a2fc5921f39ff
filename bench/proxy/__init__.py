"""Compares the proxy with nginx, haproxy, vllm-router and FastAPI + httpx by CPU per request.

    python -m bench.proxy [--quick] [--proxies ours,nginx]

One core runs the proxy, the other the upstream and the client, both shipped as C source (`csrc/`)
so that neither is the bottleneck. The robust figure is the CPU time per request and per chunk that
the kernel charged to the proxy's processes, as a ratio to the other proxies' in the same rounds.
"""
