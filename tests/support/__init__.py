"""Shared by the tests: reference implementations, factories, simulated studies."""
