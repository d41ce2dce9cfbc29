"""A training by trl: ``run.py`` has its order, ``objectives`` what differs by objective."""
