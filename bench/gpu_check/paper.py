"""Holds the statements of the paper, for comparison.

P. G. Recasens, Y. Zhu, C. Wang, E. K. Lee, O. Tardieu, A. Youssef, J. Torres and J. Ll. Berral:
"Towards Pareto Optimal Throughput in Small Language Model Serving", EuroMLSys 2024.
Only statements of its text and tables are here; its figures are curves without numbers.
"""

from typing import Final

CITATION: Final = (
    "Recasens et al., Towards Pareto Optimal Throughput in Small Language Model Serving, "
    "EuroMLSys 2024 (A100 40 GB, vLLM reserving 90 %, 512 prompt and 256 output tokens)"
)
MAX_BATCH: Final = {
    "opt-125m": 512,
    "opt-1.3b": 256,
    "opt-2.7b": 128,
    "opt-6.7b": 64,
    "opt-13b": 16,
}
"""Table 1."""
MEMORY_BYTES: Final = 40 * 2**30
"""Memory of the paper's A100; Table 1 uses 90 % of it."""

STATEMENTS: Final = {
    2: "Figure 1: for OPT-125M and OPT-1.3B throughput improves only marginally beyond batch 128. "
    "Figures 3 and 8: mean SM activity is low and grows with the batch, SM occupancy barely "
    "reaches 40 %, and GPU utilisation is constant, then falls with large batches.",
    3: "The paper has no such figure; its discussion names CPU overheads of up to half the "
    "latency, and CUDA graphs as the remedy.",
    4: "Figure 5: replicas that share the compute time-sliced raise throughput and lower latency, "
    "considerably for OPT-125M. Figures 6 and 7: GPU utilisation and power rise with them. MPS "
    "is left to future work.",
    5: "Table 1: the largest batch in 36 GB is 512 for OPT-125M and 256 for OPT-1.3B.",
    6: "Figure 1: for OPT-1.3B, too, the frontier lies at about batch 128. Table 1: at most 256.",
    7: "Mixed models on one GPU are left to future work.",
    8: "Shares of the compute are left to future work.",
    14: "Figure 5: replicas raise the throughput of OPT-1.3B and lower its latency, by less than "
    "those of OPT-125M.",
    9: "Figure 2: longer outputs lower throughput (OPT-6.7B, 32 to 256 tokens).",
    17: "Figure 1: OPT-2.7B reaches its frontier on one GPU, OPT-13B does not. Table 1: at most "
    "128, 64 and 16. Figure 4: at these batches OPT-1.3B and OPT-2.7B draw considerably less "
    "power than OPT-6.7B, and OPT-13B slightly more.",
    20: "Figure 5: two replicas of OPT-2.7B improve throughput slightly and latency clearly. "
    "Figure 7: their power stays the same.",
    13: "Figure 2: throughput and latency go alike for families of similar size (LLaMA-7B, MPT-7B, "
    "GPT-J). vLLM serves no MPT since 0.28.",
}
