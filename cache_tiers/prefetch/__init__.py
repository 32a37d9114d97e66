"""Chunks are brought up before they are asked for.

    types.py     what a planner is told and what it answers
"""
