"""Kindness to the drive: how much may be written a day, and what is worth it.

``budget`` is a token bucket of bytes a day, ``admission`` decides chunk by chunk, with ``survival``
(what goes on) and ``demand`` (what lately asked). All of it pure: no disk, no clock of its own.
"""
