"""Ray's own cluster of several nodes on this machine."""

from ray.cluster_utils import Cluster


def a_head(**resources: int) -> Cluster:
    """A cluster's head without a dashboard.

    On any port: where another Ray on this machine has 8265, Ray 2.60 leaves the socket open that it tried it with.
    """
    return Cluster(
        initialize_head=True,
        head_node_args={**resources, "include_dashboard": False, "dashboard_port": None},
    )
