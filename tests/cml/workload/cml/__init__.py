"""What a workload of CML can import: of the stand-in, as processes beside the run's own."""
