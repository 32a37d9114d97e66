"""The SSD tier. ``docs/disk-format.md`` says what is on the medium, in what order it gets there and
what a start makes of it; ``cache_tiers.store`` says what the store promises.

================  =================================================================================
on the medium     ``frames``, ``journal``, ``snapshot_format``, ``exponents``: formats, pure.
                  ``segment``: one data file and its journal; ``snapshot``; ``extent``: where one
                  chunk is
keys              ``sealer``: what encryption has to do; ``encrypted``, ``clear``: two that do it.
                  ``keyring`` in ``key_slots``: keys that can be destroyed; ``master_key``
in memory         ``index``: what is where; ``codec``: a chunk's bytes as they are stored
reading           ``fetcher``, with ``runs`` (what is merged) and ``reading`` (what is under way)
writing           ``writer``: one change at a time; ``appender``; ``compaction``
room              ``space``: limits, streams, eviction; ``neighbours``: what else is under the
                  root; ``allowance``: what may be written today
start             ``root``: the lock; ``loader``: medium and memory brought together
the disk          ``files``: the only door to it; ``io_pool``: its threads; ``aligned``: memory for
                  direct I/O; ``health``, ``tally``: what went wrong, and how often
the whole         ``store``, made of a ``config``; ``installation``: the store of one server
beside a server   ``catalogue``: what is under a root; ``verify``: reads all of it; ``archive``,
                  ``transfer``: one session as a file
================  =================================================================================
"""
