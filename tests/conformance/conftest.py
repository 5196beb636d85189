"""What the tests of Triton's API share."""

import pytest
import tritonclient.grpc as triton_grpc

from helpers.cluster import Cluster


@pytest.fixture(scope="session")
def triton_cluster():
    """The bundled model in float32, which a reference can follow exactly. Tests leave it as they found it."""
    with Cluster(worker_flags=["--dtype=float32"]) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def triton(triton_cluster):
    with triton_grpc.InferenceServerClient(triton_cluster.gateway.address) as client:
        yield client
