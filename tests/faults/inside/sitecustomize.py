"""Python imports this in every process that has its folder in PYTHONPATH; only Ray's workers count their writes by it."""

import sys

import writes  # type: ignore[import-not-found]  # from this folder

if any("default_worker.py" in word for word in sys.orig_argv):
    writes.watch("worker")
