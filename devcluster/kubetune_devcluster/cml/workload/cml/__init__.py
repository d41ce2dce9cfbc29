"""What a workload of CML can import: of the simulator, as processes besides the run's own."""
