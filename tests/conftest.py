"""Clusters that several test files share; each is started when the first test asks for it."""

import json

import pytest

from helpers.cluster import ROOT, Cluster


@pytest.fixture(scope="session")
def demo_cluster():
    """The bundled model, tensor parallel 2. Tests leave it as they found it: running and idle."""
    with Cluster(tensor_parallel=2) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def golden_answers():
    """Greedy answers of transformers on the bundled model."""
    return json.loads((ROOT / "tests" / "golden" / "demo.json").read_text())["answers"]
