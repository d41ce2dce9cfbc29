"""ComputeTarget and ClusterComputeTarget: where runs run and where they report."""
