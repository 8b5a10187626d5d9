"""One file per word: those of ``python -m study`` have a function ``command``, and ``plan`` is run.py's."""
