"""The CML backend: one job of a workspace for each run key, one run of it for each attempt.

- ``facts.py`` what is true of all of them
- ``backend.py`` the calls of the contract
- ``submission.py`` makes job and run exactly once, whatever answers get lost
- ``following.py`` looks at active runs, each at its own pace
- ``workspace.py`` one project with one key: connection, listing of jobs, uploads
- ``probe.py`` whether a run would find project, runtime and accelerators
- ``manifests.py``, ``states.py``, ``offers.py``, ``probed.py`` pure: what is sent, seen, chosen and
  told
"""
