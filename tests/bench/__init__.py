"""`make bench`: what the operator and the runner cost, as figures with budgets; never a test."""
