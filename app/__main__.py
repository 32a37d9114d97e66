"""``python -m app``: the ``valet`` command."""

import sys

from app.cli import main

# The engine starts its processes by importing this module again: the guard keeps them from serving.
if __name__ == "__main__":
    sys.exit(main())
