"""Weights that are no numbers: every front door tells it as an error of the model, and metrics and log do too."""

import json
import struct
import subprocess
import urllib.error
import urllib.request

import grpc
import pytest

from helpers.cluster import DEMO_MODEL, PROGRAMS, Cluster, await_true, failing_with

WORDS = "the model's logits are not numbers at token 1"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "demo"
    folder.mkdir()
    for file in DEMO_MODEL.iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    body = 8 + struct.unpack("<Q", data[:8])[0]
    weights.unlink()
    weights.write_bytes(data[:body] + b"\xff" * (len(data) - body))
    with Cluster(model=folder, tensor_parallel=2) as cluster:
        yield cluster


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.5}, {"beam_width": 3}],
                         ids=str)
def test_the_native_api_ends_with_internal(cluster, sampling):
    with failing_with(grpc.StatusCode.INTERNAL, WORDS, "damaged weights"):
        cluster.generate("Once", sampling=sampling)


@pytest.mark.parametrize("fields", [{}, {"beam_width": 2}, {"top_k": 5, "temperature": 1.0}], ids=str)
def test_the_http_door_answers_500(cluster, fields):
    body = json.dumps({"text_input": "Once", "max_tokens": 5, "return_log_probs": True, **fields}).encode()
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"http://{cluster.gateway.http_address}/v2/models/ensemble/generate", body, timeout=30)
    assert raised.value.code == 500
    assert WORDS in json.loads(raised.value.read())["error"]


def test_the_program_says_it_and_fails(cluster):
    result = subprocess.run([PROGRAMS / "caravan", "generate", f"--address={cluster.gateway.address}", "Once"],
                            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert WORDS in result.stderr


def test_metrics_count_it_and_the_log_has_it_once(cluster):
    leader = cluster.workers[0][0]
    for _ in range(3):
        with failing_with(grpc.StatusCode.INTERNAL, WORDS):
            cluster.generate("Once")
    await_true(lambda: leader.metrics()["caravan_worker_nonfinite_logits_total"] >= 3, "the metric to count them")
    assert leader.log.count("logits are no numbers") == 1
    assert leader.popen.poll() is None
