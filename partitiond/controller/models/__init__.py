"""Registered models, their releases and variants.

`registry` adds, changes and removes them; `releases` replaces a release and goes back to it; `fit`
says whether one more has room.
"""
