"""A fine-tuned model that answers; stored with every version, for MLflow to load it by.

It must run where only torch, transformers, peft and mlflow are installed, so it imports nothing
else of kubetune, and its own modules by relative imports: each version keeps a copy, under a name
that another version's can't have. Evaluation uses the same ``generate`` and ``read``.
"""
