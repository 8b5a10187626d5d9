"""All GPU measurements, in two commands of 15 minutes at most: see ``__main__``."""
