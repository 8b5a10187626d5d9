"""Hostile input at size, as a command: ``python -m tests.hostile``. The tests run a short version of it."""

import sys
from pathlib import Path

HERE = str(Path(__file__).parent.parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)
