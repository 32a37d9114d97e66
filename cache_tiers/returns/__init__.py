"""When will a session be back?

types.py        what is known at a turn's end, and what an outlook answers
curve.py        bins of time, and a survival curve over them
history.py      what one class of gaps has been like so far
prior.py        what is believed before any gap was seen
calibration.py  whether predictions fit what happens
empirical.py    all of it together: ``EmpiricalReturns``
"""
