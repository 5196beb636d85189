"""Clients of other languages, built from the proto files alone, get the text that transformers generates."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from helpers.cluster import PROGRAMS, ROOT, Cluster

HERE = pathlib.Path(__file__).resolve().parent
BUILD = ROOT / "build" / "conformance"
LIMIT_S = 60


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as cluster:
        yield cluster


def run(command, **environment):
    return subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=LIMIT_S, env={**os.environ, **environment}, check=False)


def build_go_client():
    """With Debian's packages under /usr/share/gocode; the second time Go's cache makes it a second."""
    workspace = BUILD / "go"
    shutil.rmtree(workspace / "src", ignore_errors=True)
    (workspace / "src" / "client").mkdir(parents=True)
    shutil.copy(HERE / "go_client" / "main.go", workspace / "src" / "client")
    mapping = "Mcaravan/v1/generation.proto=caravan/v1"
    subprocess.run(["protoc", f"--proto_path={ROOT / 'proto'}", f"--go_out={workspace / 'src'}",
                    f"--go-grpc_out={workspace / 'src'}", f"--go_opt={mapping}", f"--go-grpc_opt={mapping}",
                    "caravan/v1/generation.proto"], check=True, timeout=60)
    subprocess.run(["go", "build", "-o", str(workspace / "client"), "client"], check=True, timeout=600, cwd=workspace,
                   env={**os.environ, "GO111MODULE": "off", "GOPATH": f"{workspace}:/usr/share/gocode",
                        "GOCACHE": str(workspace / "cache"), "GOFLAGS": ""})
    return [workspace / "client"]


def python_client():
    return [sys.executable, HERE / "python_client.py"]


def cpp_client():
    return [PROGRAMS / "conformance_cpp_client"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("client", [python_client, cpp_client, build_go_client],
                         ids=["python", "cpp", "go"])
def test_a_foreign_client_streams_the_golden_text_and_sees_errors(client, cluster, golden_answers):
    command = client()
    answer = golden_answers[3]
    result = run([*command, cluster.gateway.address, answer["prompt"], answer["max_tokens"]],
                 PYTHONPATH=str(ROOT / "proto"))
    assert result.returncode == 0, result.stderr
    assert result.stdout == 2 * (" " + answer["greedy_text"] + "\n")
    refused = run([*command, cluster.gateway.address, answer["prompt"], 1 << 30], PYTHONPATH=str(ROOT / "proto"))
    assert refused.returncode == 1
    assert "max_tokens" in refused.stderr
