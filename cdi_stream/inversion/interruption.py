"""Interruption of a stage, by the service, for more urgent work."""


class InterruptionError(Exception):
    """Raised inside a stage to end it before its result; no error of the program."""
