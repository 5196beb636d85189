"""Connections and messages as Triton's clients make them: pings, sizes, codings, and what is not spoken."""

import queue
import socket
import ssl

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from helpers.cluster import Cluster
from helpers.triton import column, ensemble_inputs, failing, is_final, outputs_of, tensor
from helpers.triton_http import ask_json

PROMPT = "Once upon a time"


def test_keepalive_pings_are_taken_as_often_as_they_come(triton_cluster):
    """gRPC servers end a connection that pings more often than each five minutes (too_many_pings)."""
    options = triton_grpc.KeepAliveOptions(keepalive_time_ms=10, keepalive_timeout_ms=20000,
                                           keepalive_permit_without_calls=True, http2_max_pings_without_data=0)
    answers = queue.Queue()
    with triton_grpc.InferenceServerClient(triton_cluster.gateway.address, keepalive_options=options) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("ensemble", ensemble_inputs([PROMPT], 1500, end_id=1))
        final = False
        while not final:
            result, error = answers.get(timeout=60)
            assert error is None, error
            final = is_final(result)
        client.stop_stream()


def test_message_size_of_many_megabytes_both_ways(triton):
    """gRPC's own limit is 4 MiB each way."""
    ids = np.tile(np.arange(300, 900, dtype=np.uint32), 1500).reshape(1, 1, -1)
    texts = outputs_of(triton.infer("postprocessing", [
        tensor("TOKENS_BATCH", np.repeat(ids, 2, axis=1), np.uint32),
        tensor("sequence_length", [[ids.size, ids.size]], np.uint32)]))["OUTPUT"]
    assert 2 * 4 * ids.size > 6 << 20 and len(texts[0]) + len(texts[1]) > 4 << 20
    assert texts[0] == texts[1]


@pytest.mark.parametrize("parameter", ["config", "file:1/model.bin"])
def test_load_parameter_is_refused_by_name(parameter):
    with Cluster(gateway_flags=["--triton_model_control_mode=explicit"], loaded=False) as cluster:
        with triton_grpc.InferenceServerClient(cluster.gateway.address) as client:
            files = {} if parameter == "config" else {"files": {parameter: b"weights"}}
            with failing("UNIMPLEMENTED", f"failed to load 'ensemble': load parameter '{parameter}'"):
                client.load_model("ensemble", config="{}" if not files else None, **files)
        status, answer = ask_json(cluster.gateway.http_address, "POST", "/v2/repository/models/ensemble/load",
                                  {"parameters": {parameter: "{}"}})
        assert status == 501 and f"load parameter '{parameter}'" in answer["error"]


@pytest.mark.parametrize("door", ["grpc", "http"])
def test_tls_is_not_spoken(triton_cluster, door):
    gateway = triton_cluster.gateway
    host, port = (gateway.address if door == "grpc" else gateway.http_address).rsplit(":", 1)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, int(port)), timeout=30) as connection, pytest.raises(OSError):
        context.wrap_socket(connection)


@pytest.mark.parametrize("name", ["text_input", "max_tokens", "stream", "bad_words", "stop_words", "top_k", "top_p",
                                  "length_penalty", "min_tokens", "seed", "return_log_probs"])
def test_newer_name(triton, name):
    """What newer LLM clients send in place of the seed's names: accepted, checked, and of effect."""
    values = {"max_tokens": ([4], np.int32, [9]), "stream": ([True], bool, None), "bad_words": ([b"zq"], "BYTES", [b" girl"]),
              "stop_words": ([b"zq"], "BYTES", [b"a"]), "top_k": ([1], np.int64, [50]), "top_p": ([0.5], np.float32, None),
              "length_penalty": ([1.0], np.float32, None), "min_tokens": ([1], np.uint32, None),
              "seed": ([0], np.uint64, [7]), "return_log_probs": ([True], bool, None)}
    text = column("text_input", [PROMPT.encode()], "BYTES")
    sampled = [column("top_k", [40], np.int32), column("temperature", [1.7], np.float32)] if name == "seed" else []
    ask = lambda *more: outputs_of(triton.infer("ensemble", [text, *sampled, *more]))
    if name == "text_input":
        assert ask()["text_output"].shape == (1, 1)
        with failing("INVALID_ARGUMENT", "'text_input' and 'INPUT_1' exclude each other"):
            ask(column("INPUT_1", [4], np.uint32))
        return
    value, dtype, other = values[name]
    answer = ask(column(name, value, dtype))
    assert ("cum_log_probs" in answer) == (name == "return_log_probs")
    # [1] stands for [1, 1].
    assert ask(tensor(name, value, dtype))["text_output"].tolist() == answer["text_output"].tolist()
    if other is not None:
        sampling = [column("temperature", [1.7], np.float32)] if name == "top_k" else []
        assert ask(*sampling, column(name, other, dtype))["text_output"].tolist() != answer["text_output"].tolist()
    with pytest.raises(InferenceServerException, match=f"inference input '{name}' data-type is 'FP64'"):
        ask(column(name, [1.0], np.float64))
