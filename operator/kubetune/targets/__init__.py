"""Where runs run: a folder for each type of target, behind one contract.

- ``contract.py`` five calls that every target has, and bookkeeping that some need
- ``values.py``, ``errors.py`` what is said to a target and by it
- ``facts.py`` what rules may know of a type; ``table.py`` the facts of all types, by their names
- ``making.py`` how the backend of each type is made; ``dispatch.py`` all of them as one
"""
