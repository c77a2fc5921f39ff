"""Makes the load: request bodies, their lengths, their arrivals, and streams of several workloads.

The same seed gives the same requests. Lengths and arrivals may also come from recorded traffic.
"""
