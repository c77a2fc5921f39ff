"""One trace of several models on one machine: partitiond and what else people run.

    python -m bench.fleet [--quick] [--cases skewed,even,rare] [--arms ...]

Every arm gets the same requests at the same moments, and the same machine: six cores and 16 GiB,
of which each engine holds what was measured. Engines are simulated: their step times and memory
are those of profiles measured with vLLM on one core of a real machine (`profiles/`), and they take
as long to start as vLLM did there. So the machine may have more cores than the one it runs on. An
engine on k cores is given k times the speed of one core; measured, two cores give 1.6 to 1.8 times
that. This flatters the arms whose engines have several cores: the rivals'.

| arm | what it is |
| --- | --- |
| `partitiond` | the real daemon, planner, proxy; models scale to zero where they do not fit |
| `swap-one` | llama-swap's policy with its default group, re-stated: one model at a time |
| `swap-many` | the same with a matrix that lets as many models run as fit, one core each |
| `static` | equal shares of the cores, each model behind a real vllm-router |
| `by-hand` | one engine on all cores, for the model that is asked for most |
"""
