"""MIG: which GPU instances fit on one GPU together, how they are named, and how they are reached.

`geometry` decides placements, `changes` orders the steps from one layout to another, and `names`
and `text` read the notations that operators use. The planner and the MIG adapters use this room.
"""
