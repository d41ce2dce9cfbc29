"""The simulator of a CML workspace: ``python -m kubetune_devcluster.cml --folder DIR``.

- ``server/`` answers as the API of a workspace does; jobs follow scripts or are real processes
- ``openapi.yaml`` the contract, of which ``client_package.py`` generates ``cmlapi``
- ``mlflow_plugin/``, ``workload/`` what a job finds preinstalled
- ``addon.py`` the simulator as part of the local cluster
"""
