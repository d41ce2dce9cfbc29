"""Model: a base model or an adapter, wherever it is kept."""
