"""When will a session be back?

    types.py     what is known at a turn's end, and what an outlook answers
"""
