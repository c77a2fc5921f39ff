"""Compares what is served with and without partitiond: real engines, real proxy, same load."""
