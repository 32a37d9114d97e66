"""The SSD tier: append-only segments, a journal beside each, an index in memory.

On disk::

    <root>/lock                          held while a process has the store open
    <root>/<fingerprint>/0000000001.segment    chunks, back to back
    <root>/<fingerprint>/0000000001.journal    what is where in it (see ``journal``)

``files`` is the only module that touches a disk. ``frames`` and ``journal`` are pure formats,
``runs`` merges reads, ``segment`` is one pair of files, ``index`` is what is where in memory,
``neighbours`` is whatever else is under the root, ``health`` logs a fault once, ``store`` keeps
the promises of ``cache_tiers.store``.
"""
