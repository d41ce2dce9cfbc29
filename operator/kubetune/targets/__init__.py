"""Where runs run: a folder for each kind of target, behind one contract."""
