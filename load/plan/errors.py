"""Errors of a plan."""


class CannotPlan(Exception):
    """The question has no answer; the message says why, in one line."""
