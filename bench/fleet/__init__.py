"""Compares partitiond with other set-ups on one trace of several models on one machine.

    python -m bench.fleet [--quick] [--cases skewed,even,rare] [--arms ...]

Every arm gets the same requests at the same moments, and the same machine: six cores and 16 GiB, of
which each engine holds its measured memory. Engines are simulated: their step times and memory are
those of profiles measured with vLLM on one core of a real machine (`profiles/`), and they start as
slowly as vLLM did there. The simulated machine may therefore have more cores than the real one. An
engine on k cores gets k times the speed of one core; in measurements, two cores give 1.6 to 1.8
times that speed. This flatters the arms whose engines have several cores, that is, the rivals.

| arm | what it is |
| --- | --- |
| `partitiond` | the real daemon, planner, proxy; models scale to zero where they do not fit |
| `swap-one` | a copy of llama-swap's policy with its default group: one model at a time |
| `swap-many` | the same with a matrix that lets as many models run as fit, one core each |
| `static` | equal shares of the cores, each model behind a real vllm-router |
| `by-hand` | one engine on all cores, for the model with the most requests |
"""
