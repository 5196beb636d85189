"""Every endpoint of Triton's HTTP door, with its versioned form: method, status and the members of its answer."""

import json

import pytest

from helpers.triton_http import ask, ask_json, ensemble_inputs, events

PARAMETERS = {"INPUT_0": "Once upon a time", "INPUT_1": 4, "INPUT_2": "", "INPUT_3": ""}
STATISTICS = {"name", "version", "last_inference", "inference_count", "execution_count", "inference_stats", "batch_stats"}
DURATIONS = {"success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"}
MODELS = ["ensemble", "fastertransformer", "postprocessing", "preprocessing"]


def check_nothing(answer):
    assert answer is None


def check_server(answer):
    assert set(answer) == {"name", "version", "extensions"} and answer["name"] == "triton"


def check_metadata(answer):
    assert set(answer) == {"name", "versions", "platform", "inputs", "outputs"}
    assert all(set(tensor) == {"name", "datatype", "shape"} for tensor in answer["inputs"] + answer["outputs"])


def check_config(answer):
    """ModelConfig's field names, its enums as strings."""
    assert (answer["name"], answer["max_batch_size"]) == ("fastertransformer", 1024)
    first = answer["input"][0]
    assert [first[key] for key in ("name", "data_type", "format", "dims")] == [
        "input_ids", "TYPE_UINT32", "FORMAT_NONE", [-1]]
    assert answer["instance_group"][0]["kind"] == "KIND_CPU"
    assert answer["parameters"]["model_type"] == {"string_value": "Llama"}


def check_statistics(answer):
    assert list(answer) == ["model_stats"]
    for model in answer["model_stats"]:
        assert STATISTICS <= set(model) and set(model["inference_stats"]) == DURATIONS
        assert all(set(duration) == {"count", "ns"} for duration in model["inference_stats"].values())


def check_infer(answer):
    assert list(answer) == ["id", "model_name", "model_version", "outputs"]
    assert all(list(output) == ["name", "datatype", "shape", "data"] for output in answer["outputs"])


def check_generate(answer):
    assert {"model_name", "model_version", "OUTPUT_0", "sequence_length"} == set(answer)
    assert isinstance(answer["OUTPUT_0"], str) and isinstance(answer["sequence_length"], int), "one element is unwrapped"


def check_index(answer):
    assert [model["name"] for model in answer] == MODELS
    assert all(list(model) == ["name", "version", "state", "reason"] for model in answer)


def check_refused_control(answer):
    assert answer == {"error": "explicit model load / unload is not allowed if polling is enabled"}


def check_no_regions(answer):
    assert answer == []


def check_no_region(answer):
    assert answer == {"error": "Unable to find system shared memory region: 'r'"}


def check_no_object(answer):
    assert "Unable to open shared memory region: 'r'" in answer["error"]


def check_no_gpu(answer):
    assert "CUDA shared memory is not supported" in answer["error"]


def check_trace(answer):
    assert {"trace_file", "trace_level", "trace_rate", "trace_count", "log_frequency"} <= set(answer)
    assert answer["trace_level"] == ["OFF"]


def check_logging(answer):
    assert set(answer) == {"log_file", "log_info", "log_warning", "log_error", "log_verbose_level", "log_format"}


INFER = {"id": "7", "inputs": ensemble_inputs("Once upon a time", 4)}
REGION = {"key": "/no_such_object", "offset": 0, "byte_size": 64}
HANDLE = {"raw_handle": {"b64": "AAAA"}, "device_id": 0, "byte_size": 64}
# Method and path, body, status, check of the answer.
ENDPOINTS = [
    ("GET /v2", None, 200, check_server),
    ("GET /v2/health/live", None, 200, check_nothing), ("GET /v2/health/ready", None, 200, check_nothing),
    ("GET /v2/models/ensemble", None, 200, check_metadata),
    ("GET /v2/models/ensemble/versions/1", None, 200, check_metadata),
    ("GET /v2/models/ensemble/ready", None, 200, check_nothing),
    ("GET /v2/models/ensemble/versions/1/ready", None, 200, check_nothing),
    ("GET /v2/models/nothing/ready", None, 400, check_nothing),
    ("GET /v2/models/fastertransformer/config", None, 200, check_config),
    ("GET /v2/models/fastertransformer/versions/1/config", None, 200, check_config),
    ("GET /v2/models/ensemble/stats", None, 200, check_statistics),
    ("GET /v2/models/ensemble/versions/1/stats", None, 200, check_statistics),
    ("GET /v2/models/stats", None, 200, check_statistics),
    ("POST /v2/models/ensemble/infer", INFER, 200, check_infer),
    ("POST /v2/models/ensemble/versions/1/infer", INFER, 200, check_infer),
    ("POST /v2/models/ensemble/generate", PARAMETERS, 200, check_generate),
    ("POST /v2/models/ensemble/versions/1/generate", PARAMETERS, 200, check_generate),
    ("POST /v2/repository/index", {}, 200, check_index), ("POST /v2/repository/index", {"ready": True}, 200, check_index),
    ("POST /v2/repository/models/ensemble/load", {"parameters": {}}, 503, check_refused_control),
    ("POST /v2/repository/models/ensemble/unload", {"parameters": {"unload_dependents": True}}, 503,
     check_refused_control),
    ("GET /v2/systemsharedmemory/status", None, 200, check_no_regions),
    ("GET /v2/systemsharedmemory/region/r/status", None, 404, check_no_region),
    ("POST /v2/systemsharedmemory/region/r/register", REGION, 400, check_no_object),
    ("POST /v2/systemsharedmemory/region/r/unregister", {}, 200, check_nothing),
    ("POST /v2/systemsharedmemory/unregister", {}, 200, check_nothing),
    ("GET /v2/cudasharedmemory/status", None, 200, check_no_regions),
    ("GET /v2/cudasharedmemory/region/r/status", None, 501, check_no_gpu),
    ("POST /v2/cudasharedmemory/region/r/register", HANDLE, 501, check_no_gpu),
    ("POST /v2/cudasharedmemory/region/r/unregister", {}, 200, check_nothing),
    ("POST /v2/cudasharedmemory/unregister", {}, 200, check_nothing),
    ("GET /v2/trace/setting", None, 200, check_trace), ("POST /v2/trace/setting", {}, 200, check_trace),
    ("GET /v2/models/ensemble/trace/setting", None, 200, check_trace),
    ("POST /v2/models/ensemble/trace/setting", {"trace_rate": "7"}, 200, check_trace),
    ("POST /v2/models/ensemble/trace/setting", {"trace_rate": None}, 200, check_trace),
    ("GET /v2/logging", None, 200, check_logging), ("POST /v2/logging", {"log_info": True}, 200, check_logging),
]


@pytest.mark.parametrize("endpoint,body,status,check", ENDPOINTS, ids=[row[0] for row in ENDPOINTS])
def test_endpoint(demo_cluster, endpoint, body, status, check):
    method, path = endpoint.split()
    got, headers, text = ask(demo_cluster.gateway.http_address, method, path, body)
    assert got == status, text
    if text:
        assert headers["Content-Type"] == "application/json"
    check(json.loads(text) if text else None)


@pytest.mark.parametrize("path", ["/v2/models/ensemble/generate_stream", "/v2/models/ensemble/versions/1/generate_stream"])
def test_endpoint_of_events(demo_cluster, path):
    """`data: {json}` and an empty line; no [DONE]; each event has the members of an answer of generate."""
    answers = list(events(demo_cluster.gateway.http_address, path, {**PARAMETERS, "INPUT_1": 12}))
    assert len(answers) > 1
    for answer in answers:
        check_generate(answer)


@pytest.mark.parametrize("endpoint", sorted({row[0] for row in ENDPOINTS}))
def test_endpoint_has_no_other_method(demo_cluster, endpoint):
    path = endpoint.split()[1]
    status, headers, _ = ask(demo_cluster.gateway.http_address, "DELETE", path)
    assert status == 405 and endpoint.split()[0] in headers["Allow"].split(", ")


def test_infer_with_binary_data(demo_cluster):
    """Raw blobs behind the JSON in tensor order, and the JSON's length in Inference-Header-Content-Length."""
    inputs = ensemble_inputs("Once upon a time", 4)
    blobs = []
    for given, blob in ((0, b"\x10\0\0\0Once upon a time"), (1, (4).to_bytes(4, "little"))):
        del inputs[given]["data"]
        inputs[given]["parameters"] = {"binary_data_size": len(blob)}
        blobs.append(blob)
    body = {"inputs": inputs, "outputs": [{"name": "OUTPUT_0"},
                                          {"name": "sequence_length", "parameters": {"binary_data": False}}],
            "parameters": {"binary_data_output": True}}
    head = json.dumps(body).encode()
    status, headers, answer = ask(demo_cluster.gateway.http_address, "POST", "/v2/models/ensemble/infer",
                                  head + b"".join(blobs), {"Inference-Header-Content-Length": str(len(head))})
    assert status == 200 and headers["Content-Type"] == "application/octet-stream"
    length = int(headers["Inference-Header-Content-Length"])
    outputs = {output["name"]: output for output in json.loads(answer[:length])["outputs"]}
    assert outputs["OUTPUT_0"]["parameters"] == {"binary_data_size": len(answer) - length}
    assert "data" in outputs["sequence_length"]
    assert answer[length:][4:].startswith(b"<s> Once upon a time")


def test_generate_of_parameters_and_tensors(demo_cluster):
    """Known names become tensors, at the top or inside of "parameters"; others are parameters of the request."""
    address = demo_cluster.gateway.http_address
    for body in ({**PARAMETERS, "runtime_top_k": 1, "anything": "else"},
                 {**PARAMETERS, "parameters": {"runtime_top_k": 1, "anything": 5}}):
        status, answer = ask_json(address, "POST", "/v2/models/ensemble/generate", {**body, "id": "g"})
        assert status == 200 and answer["id"] == "g", answer
    status, answer = ask_json(address, "POST", "/v2/models/ensemble/generate", {**PARAMETERS, "beam_width": 2})
    assert status == 200 and len(answer["OUTPUT_0"]) == 2 and len(answer["sequence_length"]) == 2
