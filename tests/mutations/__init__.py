"""Wrong versions of the product, made by rule, each of which some test has to refuse.

A rule that no test refuses to see broken is not tested. `operators.py` changes one place of a
line, `asked.py` says which tests have to refuse the change, `refusal.py` runs them, `apart.py`
keeps them from other processes, and `__main__.py` is the command. `rules.txt` holds the rules that
were found one by one: what each says, and the functions that decide it.
"""
