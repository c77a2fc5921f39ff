"""Measures the product's claims, each beside a baseline: `python -m bench.ROOM.NAME --help`.

Every figure in docs/ names the command here that prints it, or says that its benchmark is gone. A
room stands for a part of the product or for a question about the whole. What several rooms use is
beside them: `command` reads options, `paired` compares two sides in alternation, `processes` pins
and measures processes, and `daemons` starts a daemon.
"""
