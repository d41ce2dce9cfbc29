"""Tests of what is believed, for those of a tracker that find everybody's."""


def anybodys(_: object) -> bool:
    """Everything that is found."""
    return True
