"""Tracks a solve: `watch` keeps the best value and bound so far, and tells members to go on."""
