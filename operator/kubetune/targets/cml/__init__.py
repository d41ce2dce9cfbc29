"""The CML backend: one job of a workspace for each run key, one run of it for each attempt.

- ``backend.py`` the calls of the Backend protocol
- ``submission.py`` makes job and run exactly once, whatever answers get lost
- ``following.py`` looks at active runs, each at its own pace
- ``workspace.py`` one project with one key: connection, listing of jobs, uploads
- ``manifests.py``, ``states.py``, ``offers.py`` pure: what is sent, what is seen, what is chosen
"""
