"""FineTuneJob: one training, from inputs to a registered version."""
