"""A study in the tools people have open: one file = one tool."""
