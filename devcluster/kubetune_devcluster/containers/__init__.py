"""The containerd node: a real kubelet on a real container runtime, on Linux as root.

It is what ``kubetune up --node containerd`` starts in place of the process node. Pods are
isolated, limited and addressed as on any cluster; see docs/containerd-node.md.

How the modules work together:

    requirements   what the machine must have, told before anything is built
    layout         names, addresses and folders of one cluster's node
    network        the bridge of the node's pods, which also claims the node's number
    environment    what a run's container sees of this machine: its Python and system libraries
    images         the two images of the node, made here
    configuration  the files that containerd, the kubelet, CNI and CoreDNS read
    components     their command lines
    gateway        a process that takes pods' connections to servers on loopback
    node           starting and stopping all of it, in order and without leftovers
    cleanup        processes, mounts, control groups and links that stopped servers left
"""
