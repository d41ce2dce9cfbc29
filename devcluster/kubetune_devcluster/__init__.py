"""The local cluster behind ``kubetune up`` and the tests: a development tool, not the operator.

- ``cluster.py`` starts and stops it, ``components.py`` says what runs, ``home.py`` what is kept
- ``control_plane/`` etcd and the Kubernetes servers: built from source, certificates, access
- ``node/`` the process node, whose pods are processes of this machine
- ``containers/`` the containerd node, which it can have instead
- ``cml/`` the simulator of a Cloudera Machine Learning workspace
- ``quickstart/`` a fine-tuning from nothing, on either
"""
