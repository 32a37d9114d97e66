"""When will a session be back?

types.py      what is known at a turn's end, and what an outlook answers
curve.py      bins of time, and a survival curve over them
history.py    what the gaps of one class have been like so far
prior.py      what is believed before any was seen
classes.py    a tenant's gaps, a tool's, a session's own
fit.py        whether predictions fit what happens, tenant by tenant
unknown.py    recency alone, in the same unit
rates.py      how often it pays to hold what a session has
empirical.py  all of it together: ``EmpiricalReturns``
"""
