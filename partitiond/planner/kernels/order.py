"""Which replicas can take the place of which: the order of what they take."""

import numpy as np

from partitiond.planner.arrays import Bits, Ints
from partitiond.planner.kernels import kernel, plain


@kernel
def next_smaller(takes: Ints, code: Ints, allowed: Bits, start: Ints) -> Ints:
    """(A, 2) pairs (larger, smaller) of rows with nothing between them.

    Args:
        takes: (S, R) distinct rows within a block and a code; smaller in every column is smaller.
        code: (S,) only rows with the same code are compared.
        allowed: (S,) 1 where a row may be the smaller one.
        start: (B + 1,) blocks; only rows of one block are compared.
    """
    pairs = np.empty((max(16, 4 * len(takes)), 2), np.int64)
    size = 0
    for block in range(len(start) - 1):
        first, last = start[block], start[block + 1]
        total = takes[first:last].sum(axis=1)
        order = first + np.argsort(-total)
        found = np.empty(last - first, np.int64)
        for larger in range(first, last):
            number = 0
            # By falling sum, so whatever lies between comes before.
            for smaller in order:
                if smaller == larger or allowed[smaller] == 0 or code[smaller] != code[larger]:
                    continue
                if not _under(takes, smaller, larger):
                    continue
                between = False
                for k in range(number):
                    if _under(takes, smaller, found[k]):
                        between = True
                        break
                if not between:
                    found[number] = smaller
                    number += 1
            if size + number > len(pairs):
                more = np.empty((2 * len(pairs) + number, 2), np.int64)
                more[:size] = pairs[:size]
                pairs = more
            for k in range(number):
                pairs[size, 0], pairs[size, 1] = larger, found[k]
                size += 1
    return pairs[:size].copy()


@plain
def _under(takes: Ints, smaller: int, larger: int) -> bool:
    columns, r = takes.shape[1], 0
    while r < columns and takes[smaller, r] <= takes[larger, r]:
        r += 1
    return bool(r == columns)
