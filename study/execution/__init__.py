"""Everything that touches Ray: the cluster, the trials as one Tune experiment, measuring and the final test."""
