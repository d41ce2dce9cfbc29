"""All that goes to MLflow and comes from there."""
