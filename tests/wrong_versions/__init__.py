"""Wrong versions of the product, each of which some test has to refuse.

A rule that no test refuses to see broken is not tested. For each rule here are at least three wrong
versions: a sign, a bound, a case left out. `make wrong-versions` puts one after the other into a
copy of the tree and runs the tests that are named beside it; a version that they accept is told.
`test_rules.py`, which is part of `make test`, sees to it that each can still be put in.
"""
