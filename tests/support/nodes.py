"""Ray's own cluster of several nodes on this machine."""
# ruff: noqa: T201 - it speaks to the process that started it

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray.cluster_utils import Cluster

READY, KILL = "ready", "kill"


def a_head(**resources: int) -> Cluster:
    """A cluster's head without a dashboard.

    On any port: where another Ray on this machine has 8265, Ray 2.60 leaves the socket open that it tried it with.
    """
    return Cluster(
        initialize_head=True,
        head_node_args={**resources, "include_dashboard": False, "dashboard_port": None},
    )


@contextmanager
def two_nodes() -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a cluster of two nodes of one core each, and what kills the second.

    In a process of its own, since Ray starts nodes in a main thread only: any thread may call this.
    """
    with subprocess.Popen(
        [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        orders, answers = process.stdin, process.stdout
        assert orders is not None
        assert answers is not None

        def heard() -> str:
            line = next((line for line in answers if line.startswith(READY)), "")
            assert line, "the cluster's process has ended"
            return line.removeprefix(READY).strip()

        def kill() -> None:
            print(KILL, file=orders, flush=True)
            heard()

        try:
            yield heard(), kill
        finally:
            orders.close()  # it shuts the cluster down and ends


def main() -> None:
    cluster = a_head(num_cpus=1)
    try:
        second = cluster.add_node(num_cpus=1)
        print(READY, cluster.address, flush=True)
        for line in sys.stdin:
            assert line.strip() == KILL
            cluster.remove_node(second, allow_graceful=False)
            print(READY, flush=True)
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
