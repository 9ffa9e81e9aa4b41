"""Seeded faults at random moments on a real cluster and a real object store: nothing may be lost, doubled or stuck.

python -m tests.chaos --trials 200      # what `make chaos` does; prints a line for each trial, and totals
python -m tests.chaos --seed 1234       # that one trial again
"""
