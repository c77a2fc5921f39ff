"""Simulates an engine: an OpenAI-compatible server that waits instead of computing.

It answers as vLLM does (shapes, error codes, metric names; no responses, no batches of chats) and
batches continuously with the step times of a profile, so that everything above the engine can run
and be tested without a model.
Run it as `python -m partitiond.simulated.engine --uds PATH --model NAME ...`.
"""
