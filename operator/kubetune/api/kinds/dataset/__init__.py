"""Dataset: where rows come from, what they mean, how they are split."""
