"""The simulated engine: an OpenAI-compatible server that takes time instead of computing.

It answers as vLLM does (paths, shapes, error codes, metric names) and batches continuously by the
step times of a profile, so that everything above the engine can be run and tested without a model.
Run it as `python -m partitiond.engines.simulated --uds PATH --model NAME ...`.
"""
