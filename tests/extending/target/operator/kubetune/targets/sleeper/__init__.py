"""Runs that sleep in a folder.

- ``facts.py`` what is true of all of them
- ``backend.py`` the calls of the contract
- ``attempts.py`` one attempt: its folder, its process, its outcome
"""
