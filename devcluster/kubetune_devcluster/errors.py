"""The one exception of the local cluster; its text is written for the person at the terminal."""


class LocalClusterError(Exception):
    """Something about the local cluster failed; the message says what and what to do."""
