"""Estimators and tests on plain arrays. They know nothing of a study."""
