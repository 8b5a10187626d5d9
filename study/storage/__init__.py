"""Runs kept at a URI: objects, and a folder that is kept in step with them."""
