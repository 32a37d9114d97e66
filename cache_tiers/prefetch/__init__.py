"""Chunks are brought up before they are asked for.

types.py      what a planner is told and what it answers
planner.py    what to fetch now, and when to ask again
tally.py      what fetches were good for
"""
