"""The one exception that this package raises for a person to read."""


class ClusterError(Exception):
    """Something stands in the way; the message is a sentence that says what, and what to do about it."""
