"""``python -m study WORD``: one file per word."""
