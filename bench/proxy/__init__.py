"""Compares the proxy with nginx, haproxy, vllm-router and FastAPI + httpx by CPU per request.

    python -m bench.proxy [--quick] [--hop] [--proxies ours,nginx]

One core runs the proxy, the other the upstream and the client, both shipped as C source (`csrc/`)
so that neither is the bottleneck. The robust figure is the CPU time per request and per chunk that
the kernel charged to the proxy's processes, as a ratio to the other proxies' in the same rounds.

`--hop` sends each request through the proxies of two hosts, with TLS between them, beside one proxy
alone, and nginx in front of nginx beside nginx alone. The second proxy has a core of its own, or
with two cores that of the upstream and the client, which are mostly idle while one client waits. So
both run at once, as on two hosts.
"""
