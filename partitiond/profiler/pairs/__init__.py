"""Measures replicas side by side: of one model (`replication`) and of two (`pairs`)."""
