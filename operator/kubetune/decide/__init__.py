"""What to do: pure functions from (spec, observed, now) to a Decision.

No kopf, no I/O, no clock. All rules of a kind are in its folder here.
"""
