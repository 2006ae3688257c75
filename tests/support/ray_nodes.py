"""Several Ray nodes on one machine, real raylets, as a cluster that somebody else runs: a program and its use.

As a program it prints the address of the cluster and keeps it until its input closes.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "5" * 64


@contextmanager
def ray_nodes(resources: Sequence[dict[str, float]]) -> Generator[dict[str, str]]:
    """Run one node for each dict of custom resources, the head first; yield the environment that joins them."""
    with tempfile.TemporaryDirectory(prefix="rn", dir="/tmp", ignore_cleanup_errors=True) as directory:
        environment = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_worker_niceness": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RAY_TMPDIR": directory,
        }
        environment.pop("RAY_ADDRESS", None)
        Path(directory, "ray").mkdir()
        command = [sys.executable, __file__, json.dumps(list(resources))]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            try:
                address = program.stdout.readline().decode().strip()
                assert address, "the nodes did not start"
                yield environment | {"RAY_ADDRESS": address}
            finally:
                program.stdin.close()
                program.wait(60)


def main() -> None:
    """Start the nodes one after the other, print the address, end them when the input closes."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    for index, custom in enumerate(json.loads(sys.argv[1])):
        options = {"include_dashboard": False} if index == 0 else {}
        cluster.add_node(num_cpus=1, resources=custom, object_store_memory=80 * 1024 * 1024, **options)
    print(cluster.address, flush=True)  # noqa: T201 - this is the program's answer
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
