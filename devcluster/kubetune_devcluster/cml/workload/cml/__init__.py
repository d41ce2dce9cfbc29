"""What a workload of CML can import: of the simulator, as processes beside the run's own."""
