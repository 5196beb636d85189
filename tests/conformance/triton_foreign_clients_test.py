"""Clients of other languages with typed contents, built from Triton's proto files alone."""

import os
import pathlib
import shutil
import subprocess

import pytest

from helpers.cluster import PROGRAMS, ROOT

HERE = pathlib.Path(__file__).resolve().parent
BUILD = ROOT / "build" / "conformance"
PROTOS = ("inference/model_config.proto", "inference/grpc_service.proto")
LIMIT_S = 60


def go_client():
    """With Debian's packages under /usr/share/gocode; the second time Go's cache makes it a second."""
    workspace = BUILD / "triton_go"
    shutil.rmtree(workspace / "src", ignore_errors=True)
    (workspace / "src" / "client").mkdir(parents=True)
    shutil.copy(HERE / "triton_go_client" / "main.go", workspace / "src" / "client")
    mappings = [f"--{option}=M{proto}=triton/inference" for proto in PROTOS for option in ("go_opt", "go-grpc_opt")]
    subprocess.run(["protoc", f"--proto_path={ROOT / 'proto'}", f"--go_out={workspace / 'src'}",
                    f"--go-grpc_out={workspace / 'src'}", *mappings, *PROTOS], check=True, timeout=60)
    subprocess.run(["go", "build", "-o", str(workspace / "client"), "client"], check=True, timeout=600, cwd=workspace,
                   env={**os.environ, "GO111MODULE": "off", "GOPATH": f"{workspace}:/usr/share/gocode",
                        "GOCACHE": str(BUILD / "go" / "cache"), "GOFLAGS": ""})
    return workspace / "client"


def cpp_client():
    return PROGRAMS / "conformance_triton_cpp_client"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("client", [cpp_client, go_client], ids=["cpp", "go"])
def test_typed_contents_unary_and_streaming(client, triton_cluster, golden_answers):
    program = client()
    answer = golden_answers[3]

    def run(max_tokens):
        return subprocess.run([program, triton_cluster.gateway.address, answer["prompt"], str(max_tokens)],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S, check=False)

    result = run(answer["max_tokens"])
    assert result.returncode == 0, result.stderr
    end = "</s>" if answer["finish"] == "eos" else ""
    assert result.stdout == 2 * f"<s> {answer['prompt']} {answer['greedy_text']}{end}\n"
    refused = run(1 << 30)
    assert refused.returncode == 1
    assert "INPUT_1 of row 0 is 1073741824" in refused.stderr
