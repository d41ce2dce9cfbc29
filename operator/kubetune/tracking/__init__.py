"""Where runs report and results are registered. base.py has the contract."""
