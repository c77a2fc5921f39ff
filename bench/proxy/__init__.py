"""The proxy beside nginx, haproxy, vllm-router and FastAPI + httpx: CPU per request and per chunk.

    python -m bench.proxy [--quick] [--proxies ours,nginx]

One core runs the proxy, the other the upstream and the client, both shipped as C source
(`csrc/`) so that neither is the bottleneck. The robust figure is the CPU time that the kernel
charged to the proxy's processes, as a ratio to the other proxies' in the same rounds.
"""
