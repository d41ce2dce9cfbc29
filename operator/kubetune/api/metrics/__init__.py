"""What an Evaluation can measure: metrics, tasks of the harness, a judge."""
