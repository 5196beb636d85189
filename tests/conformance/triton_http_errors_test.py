"""Every row of Triton's error table over HTTP: status and text; and the methods and paths that there are."""

import json

import pytest

from helpers.cluster import DEVICE
from helpers.triton_http import ask, ask_json, ensemble_inputs

ENSEMBLE = "/v2/models/ensemble/infer"


def infer(inputs, **members):
    return {"inputs": inputs, **members}


def changed(name, **members):
    """The ensemble's inputs with some members of one changed; None takes the whole input away."""
    inputs = ensemble_inputs("Once", 4)
    if not members:
        return [item for item in inputs if item["name"] != name]
    for item in inputs:
        if item["name"] == name:
            item.update(members)
            for key in [key for key, value in item.items() if value is None]:
                del item[key]
    return inputs


def extra(**members):
    return [*ensemble_inputs("Once", 4), members]


# (status, words of the text, path, body)
ROWS = {
    "unknown model": (404, "Request for unknown model: 'nope' is not found", "/v2/models/nope/infer",
                      infer(ensemble_inputs("x"))),
    "unknown model in generate": (404, "Request for unknown model: 'nope' is not found", "/v2/models/nope/generate",
                                  {"text_input": "x"}),
    "unknown version": (404, "Request for unknown model: 'ensemble' version 2 is not found",
                        "/v2/models/ensemble/versions/2/infer", infer(ensemble_inputs("x"))),
    "version that is no number": (400, "failed to get model version from specified version string 'x'",
                                  "/v2/models/ensemble/versions/x/infer", infer(ensemble_inputs("x"))),
    "unexpected input": (400, "unexpected inference input 'mystery' for model 'ensemble'", ENSEMBLE,
                         infer(extra(name="mystery", datatype="BYTES", shape=[1, 1], data=["x"]))),
    "unexpected output": (400, "unexpected inference output 'mystery' for model 'ensemble'", ENSEMBLE,
                          infer(ensemble_inputs("x"), outputs=[{"name": "mystery"}])),
    "missing input": (400, "missing required input(s) ['INPUT_3']", ENSEMBLE, infer(changed("INPUT_3"))),
    "input twice": (400, "input 'INPUT_0' already exists", ENSEMBLE,
                    infer(extra(name="INPUT_0", datatype="BYTES", shape=[1, 1], data=["x"]))),
    "wrong datatype": (400, "inference input 'INPUT_1' data-type is 'INT32', but model 'ensemble' expects 'UINT32'",
                       ENSEMBLE, infer(changed("INPUT_1", datatype="INT32"))),
    "unknown datatype": (400, "input 'INPUT_1' has the unknown datatype 'FLOAT'", ENSEMBLE,
                         infer(changed("INPUT_1", datatype="FLOAT"))),
    "wrong rank": (400, "unexpected shape for input 'INPUT_1' for model 'ensemble'. Expected [-1,-1], got [1]",
                   ENSEMBLE, infer(changed("INPUT_1", shape=[1]))),
    "rows differ": (400, "input 'INPUT_1' batch size does not match other inputs for 'ensemble'", ENSEMBLE,
                    infer(changed("INPUT_1", shape=[2, 1], data=[1, 2]))),
    "too many rows": (400, "inference request batch-size must be <= 1024 for 'ensemble'", ENSEMBLE,
                      infer(ensemble_inputs("x", rows=1025))),
    "no rows": (400, "'INPUT_0'", ENSEMBLE, infer(ensemble_inputs("x", rows=0))),
    "negative dimension": (400, "'INPUT_1' has a negative dimension", ENSEMBLE,
                           infer(changed("INPUT_1", shape=[-1, 1]))),
    "shape overflows": (400, "'INPUT_1' has more than 2147483648 elements", ENSEMBLE,
                        infer(changed("INPUT_1", shape=[1 << 62, 1 << 62]))),
    "2 GB shape": (400, "input 'INPUT_1' has 1 elements in 'data'", ENSEMBLE,
                   infer(changed("INPUT_1", shape=[1, 1 << 29]))),
    "element out of range": (400, "input 'INPUT_1' is UINT32, but element 0 of its data is -1", ENSEMBLE,
                             infer(changed("INPUT_1", data=[-1]))),
    "element of the wrong type": (400, "input 'INPUT_0' is BYTES, but element 0 of its data is 5", ENSEMBLE,
                                  infer(changed("INPUT_0", data=[5]))),
    "no data": (400, "unable to find data for input 'INPUT_1'", ENSEMBLE, infer(changed("INPUT_1", data=None))),
    "unknown region": (400, "region", ENSEMBLE, infer(changed("INPUT_1", data=None, parameters={
        "shared_memory_region": "nowhere", "shared_memory_byte_size": 4}))),
    "region without size": (400, "'INPUT_1'", ENSEMBLE, infer(changed("INPUT_1", data=None, parameters={
        "shared_memory_region": "nowhere"}))),
    "binary data that is not there": (400, "'binary_data_size' in input 'INPUT_1' is 2147483648", ENSEMBLE,
                                      infer(changed("INPUT_1", data=None, parameters={
                                          "binary_data_size": 1 << 31}))),
    "reserved parameter": (400, "triton_", ENSEMBLE, infer(ensemble_inputs("x"), parameters={"triton_x": 1})),
    "negative priority": (400, "priority", ENSEMBLE, infer(ensemble_inputs("x"), parameters={"priority": -1})),
    "parameter of the wrong kind": (400, "parameter 'p' in the request", ENSEMBLE,
                                    infer(ensemble_inputs("x"), parameters={"p": [1]})),
    "prompt learning": (500, "prompt_learning", ENSEMBLE, infer(ensemble_inputs(
        "x", prompt_learning_task_name_ids=("UINT32", 0)))),
    "not JSON": (400, "failed to parse the request JSON buffer", ENSEMBLE, b"{"),
    "empty body": (400, "failed to parse the request JSON buffer", ENSEMBLE, b""),
    "not an object": (400, "expected an object", ENSEMBLE, b"[]"),
    "no inputs": (400, "'inputs'", ENSEMBLE, {}),
    "FP16 in JSON": (400, "FP16 data via JSON is not supported", ENSEMBLE,
                     infer(changed("INPUT_1", datatype="FP16"))),
    "generate: wrong element": (400, "input 'INPUT_1' is UINT32", "/v2/models/ensemble/generate",
                                {"INPUT_0": "x", "INPUT_1": "many"}),
    "generate: missing": (400, "missing required input(s)", "/v2/models/ensemble/generate", {"INPUT_0": "x"}),
    "load": (503, "explicit model load / unload is not allowed if polling is enabled",
             "/v2/repository/models/ensemble/load", {}),
    "unload": (503, "explicit model load / unload is not allowed if polling is enabled",
               "/v2/repository/models/ensemble/unload", {}),
    "unknown repository": (404, "repository 'other'", "/v2/repository/other/index", {}),
    "register without key": (400, "'key'", "/v2/systemsharedmemory/region/r/register", {"byte_size": 4}),
    "register without size": (400, "'byte_size'", "/v2/systemsharedmemory/region/r/register", {"key": "/k"}),
    "register what is not there": (400, "/no_such_object", "/v2/systemsharedmemory/region/r/register",
                                   {"key": "/no_such_object", "byte_size": 4}),
    "register CUDA": (*((400, "raw_handle has 3 bytes") if DEVICE == "cuda" else
                        (501, "CUDA shared memory is not supported")), "/v2/cudasharedmemory/region/r/register",
                      {"raw_handle": {"b64": "AAAA"}, "device_id": 0, "byte_size": 4}),
    "trace setting": (400, "trace_rate", "/v2/trace/setting", {"trace_rate": "often"}),
    "trace of an unknown model": (404, "Request for unknown model: 'nope'", "/v2/models/nope/trace/setting", {}),
    "log setting": (400, "log_info", "/v2/logging", {"log_info": "maybe"}),
}


@pytest.mark.parametrize("row", ROWS)
def test_an_error_has_the_status_and_names_what_is_wrong(row, demo_cluster):
    status, words, path, body = ROWS[row]
    got_status, got = ask_json(demo_cluster.gateway.http_address, "POST", path, body)
    assert (got_status, list(got)) == (status, ["error"]), got
    assert words in got["error"]


@pytest.mark.parametrize("path", ["/v2/models/nope", "/v2/models/nope/config", "/v2/models/nope/stats"])
def test_asking_about_an_unknown_model_is_not_found(path, demo_cluster):
    status, got = ask_json(demo_cluster.gateway.http_address, "GET", path)
    assert (status, got) == (404, {"error": "Request for unknown model: 'nope' is not found"})


def test_readiness_of_an_unknown_model_is_a_bare_400(demo_cluster):
    for path in ("/v2/models/nope/ready", "/v2/models/ensemble/versions/7/ready"):
        status, _, body = ask(demo_cluster.gateway.http_address, "GET", path)
        assert (status, body) == (400, b"")


def test_health_is_a_bare_200(demo_cluster):
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/ensemble/ready"):
        status, _, body = ask(demo_cluster.gateway.http_address, "GET", path)
        assert (status, body) == (200, b"")


@pytest.mark.parametrize("method,path,allowed", [
    ("POST", "/v2/health/live", "GET"), ("GET", ENSEMBLE, "POST"), ("DELETE", "/v2/models/ensemble", "GET"),
    ("PUT", "/v2/logging", "GET, POST"), ("GET", "/v2/repository/index", "POST")])
def test_other_methods_are_405(method, path, allowed, demo_cluster):
    status, headers, body = ask(demo_cluster.gateway.http_address, method, path)
    assert (status, headers["Allow"]) == (405, allowed)
    assert "error" in json.loads(body)


@pytest.mark.parametrize("path", ["/", "/v2/nope", "/v3", "/v2/models/ensemble/nope", "/metrics"])
def test_other_paths_are_404(path, demo_cluster):
    status, got = ask_json(demo_cluster.gateway.http_address, "GET", path)
    assert status == 404 and "error" in got


@pytest.mark.parametrize("length,words", [
    ("0", "Raw request must only have 1 input"), ("999999999", "Inference-Header-Content-Length is 999999999"),
    ("-1", "Inference-Header-Content-Length must be a number"), ("x", "Inference-Header-Content-Length")])
def test_header_lengths_that_lie(length, words, demo_cluster):
    status, got = ask_json(demo_cluster.gateway.http_address, "POST", ENSEMBLE, infer(ensemble_inputs("x")),
                           {"Inference-Header-Content-Length": length})
    assert status == 400
    assert words in got["error"]


def test_bytes_behind_the_last_input_are_an_error(demo_cluster):
    text = json.dumps(infer(ensemble_inputs("x"))).encode()
    status, got = ask_json(demo_cluster.gateway.http_address, "POST", ENSEMBLE, text + b"xyz",
                           {"Inference-Header-Content-Length": str(len(text))})
    assert status == 400
    assert "additional input data: 3 bytes" in got["error"]
