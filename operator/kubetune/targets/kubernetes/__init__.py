"""Runs as Jobs of the cluster.

- ``facts.py`` what is true of all of them
- ``backend.py`` the calls of the contract
- ``manifests.py``, ``environment.py`` what a run is made of
- ``states.py``, ``worker_pods.py`` what its Job and pods say
- the others: what no watch tells, asked late and rarely
"""
