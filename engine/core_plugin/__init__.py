"""What runs inside EngineCore: connector, spec, tier manager, SSD shim and host worker.

Imports neither ``app`` nor ``sessions``. Nothing on the scheduler thread touches a disk, a
database or a socket: slow things go to the SSD tier's threads and come back as results.

The life of a load, in file order::

    scheduler.py    asks for a request's cached prefix, allocates device blocks for all of it
    loads.py        carries out all running loads, a part at a time
    load_stream.py  decides, for one load, what to read next and what to copy next
    manager.py      promotes and demotes; protects what is being moved
    dram_tier.py    DRAM, in the order of dram_policy.py
    ssd_tier.py     reads and writes the chunk store on its own threads
    host_worker.py  copies between device blocks and DRAM on its own thread (CPU only)
    connector.py    carries it all between the scheduler's process and the workers (orders.py)

Control commands come in through desk.py; those that take more than a moment are operations.py,
device_fill.py and usage.py. What each session holds is in sessions_view.py, what that is worth to
each tier in standings.py, what each request reused in reports.py; device_blocks.py is the door to
vLLM's prefix cache.
"""
