"""Measurements too long for a test, as commands: ``python -m tests.bench.replay``, ``python -m tests.bench.aa``.

The tests run the same functions at a small size. These modules import one another from
``tests/``, which pytest adds to the path and a command must add itself.
"""

import sys
from pathlib import Path

HERE = str(Path(__file__).parent.parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)
