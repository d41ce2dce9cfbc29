"""The local cluster behind ``kubetune up``: control plane, process node, MLflow, operator."""
