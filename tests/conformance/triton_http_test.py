"""The official Triton client over HTTP, synchronous and asyncio, against a real cluster with the bundled model."""

import asyncio
import json
import re

import numpy as np
import pytest
import tritonclient.http as httpclient
import tritonclient.http.aio as aio
from tritonclient.utils import InferenceServerException, shared_memory

from helpers.cluster import Cluster
from helpers.triton_http import ask, ask_json, ensemble_inputs, events, output_of

MODELS = ["ensemble", "fastertransformer", "postprocessing", "preprocessing"]


@pytest.fixture(scope="module")
def client(demo_cluster):
    with httpclient.InferenceServerClient(demo_cluster.gateway.http_address, concurrency=4) as client:
        yield client


def tensor(name, array, datatype, binary=True, module=httpclient):
    infer_input = module.InferInput(name, list(array.shape), datatype)
    infer_input.set_data_from_numpy(array, binary_data=binary)
    return infer_input


def end_to_end_inputs(prompts, max_tokens, binary=True, module=httpclient, **changes):
    """Every tensor that the deployment's own end-to-end client sends to the ensemble."""
    rows = len(prompts)

    def column(value, dtype):
        return np.full([rows, 1], value, dtype)

    text = np.array([[prompt.encode()] for prompt in prompts], dtype=object)
    none = np.array([[b""]] * rows, dtype=object)
    values = {
        "runtime_top_k": (column(1, np.uint32), "UINT32"), "runtime_top_p": (column(0.0, np.float32), "FP32"),
        "beam_search_diversity_rate": (column(0.0, np.float32), "FP32"),
        "temperature": (column(1.0, np.float32), "FP32"), "len_penalty": (column(1.0, np.float32), "FP32"),
        "repetition_penalty": (column(1.0, np.float32), "FP32"), "random_seed": (column(0, np.uint64), "UINT64"),
        "is_return_log_probs": (column(True, bool), "BOOL"), "beam_width": (column(1, np.uint32), "UINT32"),
        "end_id": (column(2, np.uint32), "UINT32"), "start_id": (column(1, np.uint32), "UINT32"), **changes}
    return [tensor("INPUT_0", text, "BYTES", binary, module),
            tensor("INPUT_1", column(max_tokens, np.uint32), "UINT32", binary, module),
            tensor("INPUT_2", none, "BYTES", binary, module), tensor("INPUT_3", none, "BYTES", binary, module),
            *(tensor(name, array, datatype, binary, module) for name, (array, datatype) in values.items())]


def golden_text(answer):
    """What a whole-text output of the ensemble has: the special tokens are part of it."""
    return "<s> " + answer["prompt"], answer["greedy_text"]


def check_text(text, answer):
    prompt, generated = golden_text(answer)
    assert text.startswith(prompt)
    assert text[len(prompt):].strip().startswith(generated.strip()[:100])


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata["name"] == "triton"
    assert {"binary_tensor_data", "statistics", "model_repository", "trace", "logging"} <= set(metadata["extensions"])
    for model in MODELS:
        assert client.is_model_ready(model)
        assert client.is_model_ready(model, "1")
        assert not client.is_model_ready(model, "2")
    assert not client.is_model_ready("no_such_model")


def test_model_metadata_and_config(client):
    metadata = client.get_model_metadata("ensemble")
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("ensemble", ["1"], "ensemble")
    assert metadata["inputs"][0] == {"name": "INPUT_0", "datatype": "BYTES", "shape": [-1, -1]}
    assert {"name": "runtime_top_k", "datatype": "UINT32", "shape": [-1, 1]} in metadata["inputs"]
    assert metadata["outputs"] == [
        {"name": "OUTPUT_0", "datatype": "BYTES", "shape": [-1, -1, -1]},
        {"name": "sequence_length", "datatype": "UINT32", "shape": [-1, -1]},
        {"name": "cum_log_probs", "datatype": "FP32", "shape": [-1, -1]},
        {"name": "output_log_probs", "datatype": "FP32", "shape": [-1, -1, -1]}]
    config = client.get_model_config("fastertransformer")
    assert config["max_batch_size"] == 1024
    assert config["backend"] == "fastertransformer"
    assert config["model_transaction_policy"] == {"decoupled": True}
    assert config["input"][0]["dims"] == [-1]
    assert client.get_model_metadata("preprocessing", "1")["platform"] == "python"


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_the_end_to_end_client_gets_the_golden_texts(binary, compression, client, golden_answers):
    answers = golden_answers[:4]
    outputs = [httpclient.InferRequestedOutput(name, binary_data=binary)
               for name in ("OUTPUT_0", "sequence_length", "cum_log_probs", "output_log_probs")]
    max_tokens = 32
    result = client.infer("ensemble", end_to_end_inputs([answer["prompt"] for answer in answers], max_tokens, binary),
                          outputs=outputs, request_id="42", request_compression_algorithm=compression,
                          response_compression_algorithm=compression)
    assert result.get_response()["id"] == "42"
    assert result.get_response()["model_version"] == "1"
    texts = result.as_numpy("OUTPUT_0")
    assert texts.shape == (4,)
    for text, answer in zip(texts, answers):
        text = text if isinstance(text, str) else text.decode()
        prompt, generated = golden_text(answer)
        assert text.startswith(prompt)
        produced = text[len(prompt):].replace("</s>", "").strip()
        assert produced and generated.strip().startswith(produced[:60])
    lengths = result.as_numpy("sequence_length")
    assert lengths.shape == (4, 1) and lengths.dtype == np.uint32
    assert result.as_numpy("cum_log_probs").shape == (4, 1)
    assert result.as_numpy("output_log_probs").shape == (4, 1, max_tokens)
    assert (result.as_numpy("cum_log_probs") < 0).all()


def test_fastertransformer_echoes_and_continues_ids(client, golden_answers):
    answer = golden_answers[3]
    ids = np.array([answer["prompt_ids"]], np.uint32)
    result = client.infer("fastertransformer", [
        tensor("input_ids", ids, "UINT32"),
        tensor("input_lengths", np.array([[ids.shape[1]]], np.uint32), "UINT32"),
        tensor("request_output_len", np.array([[16]], np.uint32), "UINT32")])
    got = result.as_numpy("output_ids")
    assert got.shape == (1, 1, ids.shape[1] + 16)
    assert got[0, 0].tolist() == answer["prompt_ids"] + answer["greedy_ids"][:16]
    assert result.as_numpy("sequence_length").tolist() == [[ids.shape[1] + 16]]


def test_pre_and_postprocessing_are_the_tokenizer(client, golden_answers):
    answer = golden_answers[3]
    encoded = client.infer("preprocessing", [
        tensor("QUERY", np.array([[answer["prompt"].encode()]], dtype=object), "BYTES"),
        tensor("BAD_WORDS_DICT", np.array([[b""]], dtype=object), "BYTES"),
        tensor("STOP_WORDS_DICT", np.array([[b""]], dtype=object), "BYTES"),
        tensor("REQUEST_OUTPUT_LEN", np.array([[7]], np.uint32), "UINT32")])
    assert encoded.as_numpy("INPUT_ID").tolist() == [answer["prompt_ids"]]
    assert encoded.as_numpy("REQUEST_INPUT_LEN").tolist() == [[len(answer["prompt_ids"])]]
    assert encoded.as_numpy("REQUEST_OUTPUT_LEN").tolist() == [[7]]
    assert encoded.as_numpy("STOP_WORDS_IDS").tolist() == [[[0], [-1]]]
    ids = np.array([[answer["prompt_ids"]]], np.uint32)
    decoded = client.infer("postprocessing", [
        tensor("TOKENS_BATCH", ids, "UINT32"),
        tensor("sequence_length", np.array([[ids.shape[2]]], np.uint32), "UINT32")])
    assert decoded.as_numpy("OUTPUT")[0].decode() == "<s> " + answer["prompt"]


def test_async_infer_answers_all(client, golden_answers):
    answer = golden_answers[3]
    calls = [client.async_infer("ensemble", end_to_end_inputs([answer["prompt"]], 8), request_id=str(i))
             for i in range(8)]
    for i, call in enumerate(calls):
        result = call.get_result(timeout=60)
        assert result.get_response()["id"] == str(i)
        check_text(result.as_numpy("OUTPUT_0")[0].decode() + answer["greedy_text"][20:], {
            **answer, "greedy_text": ""})


def test_the_asyncio_client(demo_cluster, golden_answers):
    answer = golden_answers[3]

    async def run():
        async with aio.InferenceServerClient(demo_cluster.gateway.http_address) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("ensemble"))["platform"] == "ensemble"
            results = await asyncio.gather(*(
                client.infer("ensemble", end_to_end_inputs([answer["prompt"]], 8, module=aio),
                             response_compression_algorithm="gzip")
                for _ in range(8)))
            for result in results:
                assert result.as_numpy("OUTPUT_0")[0].decode().startswith("<s> " + answer["prompt"])
            with pytest.raises(InferenceServerException, match="unknown model"):
                await client.get_model_metadata("no_such_model")

    asyncio.run(run())


def test_statistics_count(client):
    before = client.get_inference_statistics("ensemble")["model_stats"][0]
    client.infer("ensemble", end_to_end_inputs(["Once upon a time", "There was"], 4))
    after = client.get_inference_statistics("ensemble")["model_stats"][0]
    assert after["name"] == "ensemble" and after["version"] == "1"
    assert after["inference_count"] == before["inference_count"] + 2
    assert after["inference_stats"]["success"]["count"] == before["inference_stats"]["success"]["count"] + 1
    for part in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit",
                 "cache_miss"):
        assert set(after["inference_stats"][part]) == {"count", "ns"}
    assert after["last_inference"] > 1_600_000_000_000
    assert [batch for batch in after["batch_stats"] if batch["batch_size"] == 2]
    assert [model["name"] for model in client.get_inference_statistics()["model_stats"]] == MODELS


def test_repository_index_and_control_mode_none(client):
    index = client.get_model_repository_index()
    assert [(model["name"], model["version"], model["state"]) for model in index] == [
        (name, "1", "READY") for name in MODELS]
    for call in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="explicit model load / unload is not allowed") as error:
            call("ensemble")
        assert error.value.status() == "503"


def test_trace_and_log_settings(client):
    settings = client.get_trace_settings()
    assert settings["trace_level"] == ["OFF"]
    assert settings["trace_rate"] == "1000"
    changed = client.update_trace_settings(settings={"trace_rate": "7", "trace_count": 5})
    assert (changed["trace_rate"], changed["trace_count"]) == ("7", "5")
    assert client.get_trace_settings("ensemble")["trace_rate"] == "7"
    assert client.update_trace_settings(settings={"trace_rate": None, "trace_count": None})["trace_rate"] == "1000"
    with pytest.raises(InferenceServerException, match="trace_rate"):
        client.update_trace_settings(settings={"trace_rate": "x"})
    assert client.get_log_settings()["log_info"] is True
    assert client.update_log_settings({"log_verbose_level": 1})["log_verbose_level"] == 1
    assert client.update_log_settings({"log_verbose_level": 0})["log_verbose_level"] == 0
    with pytest.raises(InferenceServerException, match="log_info"):
        client.update_log_settings({"log_info": 5})


def test_system_shared_memory_for_inputs_and_outputs(client):
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()  # as the clients' examples begin
    prompt = np.array([[b"Once upon a time"]], dtype=object)
    lengths = np.array([[4]], np.uint32)
    region = shared_memory.create_shared_memory_region("http_test_in", "/http_test_in", 4096)
    out = shared_memory.create_shared_memory_region("http_test_out", "/http_test_out", 4096)
    try:
        shared_memory.set_shared_memory_region(region, [lengths], offset=64)
        client.register_system_shared_memory("http_test_in", "/http_test_in", 4096)
        client.register_system_shared_memory("http_test_out", "/http_test_out", 4096)
        names = {entry["name"]: entry for entry in client.get_system_shared_memory_status()}
        assert names["http_test_in"] == {"name": "http_test_in", "key": "/http_test_in", "offset": 0,
                                            "byte_size": 4096}
        max_tokens = httpclient.InferInput("INPUT_1", [1, 1], "UINT32")
        max_tokens.set_shared_memory("http_test_in", 4, offset=64)
        none = np.array([[b""]], dtype=object)
        wanted = httpclient.InferRequestedOutput("sequence_length")
        wanted.set_shared_memory("http_test_out", 4, offset=8)
        result = client.infer("ensemble", [
            tensor("INPUT_0", prompt, "BYTES"), max_tokens, tensor("INPUT_2", none, "BYTES"),
            tensor("INPUT_3", none, "BYTES")], outputs=[wanted])
        output = result.get_output("sequence_length")
        assert output["parameters"]["shared_memory_region"] == "http_test_out"
        assert "data" not in output
        contents = shared_memory.get_contents_as_numpy(out, np.uint32, [1, 1], offset=8)
        assert contents[0, 0] > 4
        too_far = httpclient.InferInput("INPUT_1", [1, 1], "UINT32")
        too_far.set_shared_memory("http_test_in", 4, offset=4094)
        with pytest.raises(InferenceServerException, match="INPUT_1"):
            client.infer("ensemble", [tensor("INPUT_0", prompt, "BYTES"), too_far, tensor("INPUT_2", none, "BYTES"),
                                      tensor("INPUT_3", none, "BYTES")])
        with pytest.raises(InferenceServerException, match="http_test_in"):
            client.register_system_shared_memory("http_test_in", "/http_test_in", 4096)
    finally:
        client.unregister_system_shared_memory()
        shared_memory.destroy_shared_memory_region(region)
        shared_memory.destroy_shared_memory_region(out)
    assert client.get_system_shared_memory_status() == []


def test_cuda_shared_memory_is_refused_clearly(client):
    assert client.get_cuda_shared_memory_status() == []
    with pytest.raises(InferenceServerException, match="CUDA shared memory is not supported") as error:
        client.register_cuda_shared_memory("region", b"AAAA", 0, 16)
    assert error.value.status() == "501"


def test_explicit_control_really_loads_and_unloads_and_latencies_are_opt_in():
    with Cluster(gateway_flags=["--triton_model_control_mode=explicit", "--triton_load_models=*",
                                "--triton_latency_metrics"]) as cluster:
        check_latency_metrics(cluster)
        with httpclient.InferenceServerClient(cluster.gateway.http_address) as client:
            assert client.is_model_ready("preprocessing")
            client.unload_model("preprocessing")
            assert not client.is_model_ready("preprocessing")
            with pytest.raises(InferenceServerException, match="Request for unknown model"):
                client.infer("preprocessing", [tensor("QUERY", np.array([[b"x"]], dtype=object), "BYTES")])
            states = {model["name"]: model["state"] for model in client.get_model_repository_index()}
            assert states["preprocessing"] == "UNAVAILABLE"
            client.load_model("preprocessing")
            assert client.is_model_ready("preprocessing")
            with pytest.raises(InferenceServerException, match="config"):
                client.load_model("preprocessing", config=json.dumps({"name": "preprocessing"}))


def test_generate_answers_with_the_whole_text(demo_cluster, golden_answers):
    answer = golden_answers[3]
    address = demo_cluster.gateway.http_address
    status, got = ask_json(address, "POST", "/v2/models/ensemble/generate", {
        "INPUT_0": answer["prompt"], "INPUT_1": 24, "INPUT_2": "", "INPUT_3": "", "id": "g1",
        "parameters": {"temperature": 1.0}})
    assert status == 200, got
    assert (got["id"], got["model_name"], got["model_version"]) == ("g1", "ensemble", "1")
    prompt, generated = golden_text(answer)
    assert got["OUTPUT_0"].startswith(prompt)
    assert generated.startswith(got["OUTPUT_0"][len(prompt):].strip()[:30])
    assert got["sequence_length"] == len(answer["prompt_ids"]) + 24
    status, newer = ask_json(address, "POST", "/v2/models/ensemble/versions/1/generate", {
        "text_input": answer["prompt"], "parameters": {"max_tokens": 24, "exclude_input_in_output": True}})
    assert status == 200, newer
    assert generated.startswith(newer["text_output"].strip()[:30])


def test_generate_stream_is_cumulative_and_ends(demo_cluster, golden_answers):
    answer = golden_answers[3]
    body = {"INPUT_0": answer["prompt"], "INPUT_1": 24, "INPUT_2": "", "INPUT_3": ""}
    address = demo_cluster.gateway.http_address
    texts = [event["OUTPUT_0"] for event in events(address, "/v2/models/ensemble/generate_stream", body)]
    assert len(texts) > 3
    for earlier, later in zip(texts, texts[1:]):
        assert later.startswith(earlier.rstrip("�")), "partial texts grow"
    _, whole = ask_json(address, "POST", "/v2/models/ensemble/generate", body)
    assert texts[-1] == whole["OUTPUT_0"]


def test_an_error_before_the_first_event_has_a_status(demo_cluster):
    status, got = ask_json(demo_cluster.gateway.http_address, "POST", "/v2/models/ensemble/generate_stream", {
        "INPUT_0": "x", "INPUT_1": 1 << 30, "INPUT_2": "", "INPUT_3": ""})
    assert status == 400
    assert "INPUT_1" in got["error"] or "request_output_len" in got["error"] or "max_tokens" in got["error"]


def triton_metrics(cluster):
    status, headers, text = ask(f"127.0.0.1:{cluster.gateway.ports['metrics']}", "GET", "/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain")
    values = {}
    for line in text.decode().splitlines():
        if line.startswith(("nv_", "caravan_")):
            name, value = line.rsplit(" ", 1)
            values[name] = float(value)
    return values


def check_latency_metrics(cluster):
    body = {"INPUT_0": "Once upon a time", "INPUT_1": 24, "INPUT_2": "", "INPUT_3": ""}
    list(events(cluster.gateway.http_address, "/v2/models/ensemble/generate_stream", body))
    values = triton_metrics(cluster)
    label = 'model="ensemble",version="1"'
    for part in ("request", "queue", "compute_input", "compute_infer", "compute_output"):
        assert values[f"nv_inference_{part}_summary_us_count{{{label}}}"] == 1
        for quantile in ("0.5", "0.9", "0.95", "0.99", "0.999"):
            assert any(name.startswith(f"nv_inference_{part}_summary_us{{{label},quantile=\"{quantile}")
                       for name in values), quantile
    assert values[f"nv_inference_first_response_histogram_ms_count{{{label}}}"] == 1
    assert f'nv_inference_first_response_histogram_ms_bucket{{{label},le="100"}}' in values


def test_metrics_have_tritons_names_and_labels_and_count(demo_cluster, client):
    before = triton_metrics(demo_cluster)
    client.infer("ensemble", end_to_end_inputs(["Once", "There", "A"], 4))
    after = triton_metrics(demo_cluster)

    def rise(name):
        return after[name] - before.get(name, 0)

    label = '{model="ensemble",version="1"}'
    assert rise("nv_inference_request_success" + label) == 1
    assert rise("nv_inference_count" + label) == 3
    assert rise("nv_inference_exec_count" + label) >= 1
    for part in ("request", "compute_input", "compute_infer"):
        assert rise(f"nv_inference_{part}_duration_us{label}") > 0
    assert "nv_inference_queue_duration_us" + label in after
    assert "nv_inference_compute_output_duration_us" + label in after
    assert after["nv_inference_pending_request_count" + label] == 0
    for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER"):
        assert f'nv_inference_request_failure{{model="ensemble",version="1",reason="{reason}"}}' in after
    for model in MODELS:
        assert f'nv_inference_count{{model="{model}",version="1"}}' in after
    assert 0 <= after["nv_cpu_utilization"] <= 1
    assert after["nv_cpu_memory_total_bytes"] > after["nv_cpu_memory_used_bytes"] > 0
    assert any(name.startswith("caravan_gateway_http_") for name in after)


def test_keep_alive_and_request_ids(demo_cluster):
    status, _, _ = ask(demo_cluster.gateway.http_address, "POST", "/v2/models/ensemble/generate",
                       json.dumps({"INPUT_0": "x", "INPUT_1": 2, "INPUT_2": "", "INPUT_3": ""}).encode(),
                       {"x-request-id": "http-needle-17"})
    assert status == 200
    assert re.search("http-needle-17", demo_cluster.gateway.log)


def test_unary_infer_in_json_by_hand(demo_cluster):
    status, got = ask_json(demo_cluster.gateway.http_address, "POST", "/v2/models/ensemble/infer", {
        "id": "1", "inputs": ensemble_inputs("Once upon a time", 4),
        "outputs": [{"name": "OUTPUT_0"}, {"name": "sequence_length"}]})
    assert status == 200, got
    assert list(got) == ["id", "model_name", "model_version", "outputs"]
    assert output_of(got, "OUTPUT_0")["data"][0].startswith("<s> Once upon a time")
    assert output_of(got, "sequence_length")["shape"] == [1, 1]
