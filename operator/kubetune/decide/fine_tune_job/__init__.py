"""FineTuneJob: its states in order, its inputs, its runs, its result, its deletion."""
