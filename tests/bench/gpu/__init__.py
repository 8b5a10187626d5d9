"""All that only a GPU can tell, in two commands that fit a card lent for 15 minutes: see ``__main__``."""
