"""Tracks a solve: `watch` keeps the best value and bound so far, and says whether to go on."""
