"""The quickstart's own model and data, made on the spot so that nothing is downloaded.

``python -m kubetune_runner.sample model DIR`` pretrains a small language model on the
docstrings of the standard library; ``... tickets FILE`` writes support tickets whose answers
follow rules that the model has never seen.
"""
