"""The parts of the report: one file = one section with its figure, placed by its ``PART.order``."""
