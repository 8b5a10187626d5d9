"""Families of arms: one file each. ``names()`` lists them, ``arm(name)`` is one; ``FAMILY/NAME`` names it on the command line."""
