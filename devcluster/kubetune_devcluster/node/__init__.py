"""The process node: a Kubernetes Node whose pods run as local processes.

It exists so that a laptop without containers runs kubetune's own Jobs through the real Kubernetes
machinery. It is no kubelet: it isolates nothing, runs only images on its allow-list and refuses
what it can't do (see `support.py` and docs/process-node.md).

How the modules work together:

    __main__      command line; forks the zygote while the process is still small
    shim          the zygote and its shims: one shim per container, and it outlives the node
    mounts        what a container sees of its volumes: a mount namespace, or links
    attempt       the node's handle on one shim
    support       which pods are refused, and which environment an image stands for
    environment   environment variables and command lines
    volumes       the folders behind a pod's volumes
    status        the pod status the API server gets
    worker        one pod from binding to deletion
    pods          list and watch of the node's pods, one worker each
    registration  the Node object, its lease and heartbeat
    logs, server  container logs over TLS
    client        the few API calls all of these need
"""
