"""Measures the product's claims, each beside a baseline: `python -m bench.ROOM.NAME --help`.

Every figure in docs/ names the command here that prints it. A room stands for a part of the product
or for a question about the whole. `paired` compares two sides in alternation, and `daemons` starts
a daemon; several rooms use these two.
"""
