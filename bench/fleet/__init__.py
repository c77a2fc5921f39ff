"""Compares partitiond with llama-swap's policy on one trace of several models on one machine.

    python -m bench.fleet [--quick] [--cases skewed,even,rare,bursty] [--arms partitiond,swap]
                          [--start SECONDS]

Every arm gets the same requests at the same moments, and the same machine: six cores and 16 GiB, of
which each engine holds its measured memory. Engines are simulated: their step times and memory are
those of profiles measured with vLLM on one core of a real machine (`profiles/`), and a start takes
what `bench.serving.starts` measured: forked in our arm, by hand in the other. The simulated machine
may therefore have more cores than the real one. An engine on k cores gets k times the speed of one
core; in measurements, two cores give 1.6 to 1.8 times that speed. This flatters the arms whose
engines have several cores, that is, the rival.

| arm | what it is |
| --- | --- |
| `partitiond` | the real daemon, planner, proxy; models scale to zero where they do not fit |
| `swap` | llama-swap's policy with a matrix: as many models as fit, on equal cores |
"""
