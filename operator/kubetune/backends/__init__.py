"""Where runs run. One module per kind of target; base.py has the contract."""
