"""Tiers, policies and the chunk store: pure Python, no engine, no server, no database.

Everything here runs inside EngineCore (on its scheduler thread or on I/O threads) and, unchanged,
under pytest and in the simulator. Nothing in this package imports another package of ours.
"""
