"""Defines the options of `partitiond profile` that say where and how it measures."""
