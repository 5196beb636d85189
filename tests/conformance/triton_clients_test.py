"""The official tritonclient drives all four models, in the request forms that LLaMA deployments used."""

import asyncio
import json

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_aio

from helpers.cluster import Cluster
from helpers.triton import (Stream, column, ensemble_inputs, failing, is_final, outputs_of, tensor,
                            transformer_inputs)

PROMPT = "Once upon a time"


def end_to_end_inputs(prompts, output_len=20):
    """As tools/end_to_end_test_llama.py of the succeeded system sends them."""
    return ensemble_inputs(
        prompts, output_len, runtime_top_k=1, runtime_top_p=0.0, beam_search_diversity_rate=0.0, temperature=1.0,
        len_penalty=1.0, repetition_penalty=1.0, random_seed=0, is_return_log_probs=True, beam_width=1, start_id=0,
        end_id=1)


def test_end_to_end_client_with_eight_rows(triton, golden_answers):
    prompts = [answer["prompt"] for answer in golden_answers][:8]
    prompts += [PROMPT] * (8 - len(prompts))
    outputs = outputs_of(triton.infer("ensemble", end_to_end_inputs(prompts)))
    assert set(outputs) == {"OUTPUT_0", "sequence_length", "cum_log_probs", "output_log_probs"}
    assert outputs["OUTPUT_0"].shape == (8,)
    assert outputs["sequence_length"].shape == (8, 1)
    assert outputs["cum_log_probs"].shape == (8, 1)
    assert outputs["output_log_probs"].shape == (8, 1, 20)
    for row, prompt in enumerate(prompts):
        assert outputs["OUTPUT_0"][row].decode().startswith("<s> " + prompt)


def test_ensemble_says_what_transformers_generates(triton, golden_answers):
    for answer in golden_answers:
        outputs = outputs_of(triton.infer("ensemble", ensemble_inputs([answer["prompt"]], answer["max_tokens"])))
        text = outputs["OUTPUT_0"][0].decode()
        expected = answer["greedy_text"]
        ended = answer["finish"] == "eos"
        assert text.startswith("<s> " + answer["prompt"])
        assert text.removesuffix("</s>").endswith(expected)
        assert text.endswith("</s>") == ended
        assert outputs["sequence_length"][0, 0] == len(answer["prompt_ids"]) + len(answer["greedy_ids"])


def test_three_models_by_hand_give_what_the_ensemble_gives(triton):
    prompts = [PROMPT, "The dog", "Mia saw a big red ball in the garden and"]
    ensemble = outputs_of(triton.infer("ensemble", ensemble_inputs(prompts, 12, is_return_log_probs=True)))
    encoded = outputs_of(triton.infer("preprocessing", [
        column("QUERY", [prompt.encode() for prompt in prompts], "BYTES"),
        column("BAD_WORDS_DICT", [b""] * 3, "BYTES"), column("STOP_WORDS_DICT", [b""] * 3, "BYTES"),
        column("REQUEST_OUTPUT_LEN", [12] * 3, np.uint32)]))
    assert encoded["BAD_WORDS_IDS"].tolist() == [[[0], [-1]]] * 3
    assert encoded["REQUEST_OUTPUT_LEN"].tolist() == [[12]] * 3
    width = encoded["REQUEST_INPUT_LEN"].max()
    assert encoded["INPUT_ID"].shape == (3, width)
    for row, length in enumerate(encoded["REQUEST_INPUT_LEN"][:, 0]):
        assert encoded["INPUT_ID"][row, 0] == 1, "the prompt begins with BOS"
        assert (encoded["INPUT_ID"][row, length:] == 1).all(), "and is padded on the right"
    generated = outputs_of(triton.infer("fastertransformer", [
        tensor("input_ids", encoded["INPUT_ID"], np.uint32),
        tensor("input_lengths", encoded["REQUEST_INPUT_LEN"], np.uint32),
        tensor("request_output_len", encoded["REQUEST_OUTPUT_LEN"], np.uint32),
        tensor("bad_words_list", encoded["BAD_WORDS_IDS"], np.int32),
        tensor("stop_words_list", encoded["STOP_WORDS_IDS"], np.int32),
        column("is_return_log_probs", [True] * 3, bool)]))
    assert generated["output_ids"].shape == (3, 1, width + 12)
    assert generated["sequence_length"].tolist() == ensemble["sequence_length"].tolist()
    assert np.array_equal(generated["cum_log_probs"], ensemble["cum_log_probs"])
    decoded = outputs_of(triton.infer("postprocessing", [
        tensor("TOKENS_BATCH", generated["output_ids"], np.uint32),
        tensor("sequence_length", generated["sequence_length"], np.uint32)]))
    assert decoded["OUTPUT"].shape == (3,)
    # The padded length counts, so shorter rows show their fill ids here, as they did in the succeeded system.
    for row in range(3):
        assert decoded["OUTPUT"][row].decode().startswith(ensemble["OUTPUT_0"][row].decode())


def test_issue_request_client_with_a_stream(triton_cluster):
    """tools/issue_request.py: with a cadence of 1 each partial response is one token longer."""
    prompt = [1, 80, 90, 100]
    with Cluster(gateway_flags=["--triton_stream_interval=1"]) as cluster, Stream(cluster.gateway.address) as stream:
        stream.send("fastertransformer", transformer_inputs([prompt], 10, is_return_log_probs=True), request_id="1")
        results = stream.collect()
    lengths = [int(result.as_numpy("sequence_length")[0, 0]) for result in results]
    assert lengths == list(range(len(prompt) + 1, len(prompt) + 11))
    last = results[-1].as_numpy("output_ids")[0, 0]
    for length, result in zip(lengths, results):
        assert result.get_response().id == "1"
        ids = result.as_numpy("output_ids")[0, 0]
        assert ids.shape == (14,)
        assert ids[:length].tolist() == last[:length].tolist()
        assert (ids[length:] == 2).all(), "the tail holds the end id"
        assert result.as_numpy("cum_log_probs").shape == (1, 1)


def test_partial_responses_are_cumulative_with_a_cadence_of_five(triton, triton_cluster):
    inputs = ensemble_inputs([PROMPT], 23, is_return_log_probs=True)
    whole = outputs_of(triton.infer("ensemble", inputs))
    with Stream(triton_cluster.gateway.address) as stream:
        stream.send("ensemble", inputs, request_id="a")
        results = stream.collect()
    lengths = [int(result.as_numpy("sequence_length")[0, 0]) for result in results]
    final = int(whole["sequence_length"][0, 0])
    assert lengths == [*range(lengths[0], final, 5), final]
    assert all(length % 5 == 0 for length in lengths[:-1])
    texts = [result.as_numpy("OUTPUT_0")[0].decode() for result in results]
    assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:]))
    assert texts[-1] == whole["OUTPUT_0"][0].decode()
    assert [is_final(result) for result in results] == [False] * (len(results) - 1) + [True]


def test_an_empty_final_response_comes_only_to_who_asked(triton_cluster):
    with Stream(triton_cluster.gateway.address) as stream:
        stream.send("ensemble", ensemble_inputs([PROMPT], 7), enable_empty_final_response=True)
        results = stream.collect()
        assert [len(result.get_response().outputs) > 0 for result in results] == [True] * (len(results) - 1) + [False]
        assert sum(is_final(result) for result in results) == 1
        stream.send("fastertransformer", transformer_inputs([[1, 80]], 7), enable_empty_final_response=True)
        results = stream.collect()
        assert all(len(result.get_response().outputs) > 0 for result in results)


def test_many_requests_interleave_on_one_stream_and_stay_in_order(triton_cluster):
    count = 40
    with Stream(triton_cluster.gateway.address) as stream:
        for index in range(count):
            stream.send("ensemble", ensemble_inputs([PROMPT], 5 + index % 20), request_id=str(index))
        results = stream.collect(count)
    by_id = {}
    for result in results:
        by_id.setdefault(result.get_response().id, []).append(result)
    assert len(by_id) == count
    for index in range(count):
        own = by_id[str(index)]
        lengths = [int(result.as_numpy("sequence_length")[0, 0]) for result in own]
        assert lengths == sorted(set(lengths))
        assert [is_final(result) for result in own] == [False] * (len(own) - 1) + [True]


def test_a_stream_goes_on_after_an_error(triton_cluster):
    with Stream(triton_cluster.gateway.address) as stream:
        stream.send("nothing", ensemble_inputs([PROMPT]), request_id="bad")
        result, error = stream.next()
        assert result is None and "Request for unknown model: 'nothing' is not found" in str(error)
        stream.send("ensemble", ensemble_inputs([PROMPT]), request_id="good")
        assert stream.collect()[-1].get_response().id == "good"


def test_without_decoupling_a_stream_has_one_response_a_request_in_order():
    with Cluster(gateway_flags=["--triton_decoupled=false"]) as cluster:
        with triton_grpc.InferenceServerClient(cluster.gateway.address) as client:
            config = client.get_model_config("ensemble", as_json=True)["config"]
            assert not config["model_transaction_policy"].get("decoupled", False)
        with Stream(cluster.gateway.address) as stream:
            for index in range(10):
                stream.send("ensemble", ensemble_inputs([PROMPT], 40 - 4 * index), request_id=str(index))
            results = [stream.next()[0] for _ in range(10)]
        assert [result.get_response().id for result in results] == [str(index) for index in range(10)]
        assert all(is_final(result) for result in results)


def test_asyncio_client(triton_cluster):
    async def run():
        async with triton_aio.InferenceServerClient(triton_cluster.gateway.address) as client:
            assert await client.is_server_ready()
            results = await asyncio.gather(*(client.infer("ensemble", ensemble_inputs([PROMPT], 4 + index))
                                             for index in range(8)))
            assert [int(r.as_numpy("sequence_length")[0, 0]) - 4 - i for i, r in enumerate(results)] == [
                int(results[0].as_numpy("sequence_length")[0, 0]) - 4] * 8

            async def requests():
                for index in range(3):
                    yield {"model_name": "ensemble", "inputs": ensemble_inputs([PROMPT], 12),
                           "request_id": str(index)}

            finals = set()
            async for result, error in client.stream_infer(requests()):
                assert error is None
                if is_final(result):
                    finals.add(result.get_response().id)
                if len(finals) == 3:
                    break
            assert finals == {"0", "1", "2"}

    asyncio.run(run())


def test_async_infer_with_callbacks(triton):
    import queue
    answers = queue.Queue()
    for index in range(5):
        triton.async_infer("ensemble", ensemble_inputs([PROMPT], 6), request_id=str(index),
                           callback=lambda result, error: answers.put((result, error)))
    for _ in range(5):
        result, error = answers.get(timeout=60)
        assert error is None and result.as_numpy("OUTPUT_0").shape == (1,)


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_requests(triton, compression):
    result = triton.infer("ensemble", ensemble_inputs([PROMPT * 20], 3), compression_algorithm=compression)
    assert result.as_numpy("OUTPUT_0").shape == (1,)


def test_requested_outputs_only(triton):
    wanted = [triton_grpc.InferRequestedOutput("sequence_length")]
    outputs = outputs_of(triton.infer("ensemble", ensemble_inputs([PROMPT]), outputs=wanted))
    assert list(outputs) == ["sequence_length"]
    # Log probs that were not asked for by their input do not exist, and nothing waits for them.
    wanted = [triton_grpc.InferRequestedOutput(name) for name in ("OUTPUT_0", "cum_log_probs")]
    outputs = outputs_of(triton.infer("ensemble", ensemble_inputs([PROMPT]), outputs=wanted))
    assert list(outputs) == ["OUTPUT_0"]


def test_newer_names(triton, triton_cluster, golden_answers):
    answer = golden_answers[0]
    inputs = [column("text_input", [answer["prompt"].encode()], "BYTES"),
              column("max_tokens", [answer["max_tokens"]], np.int32)]
    outputs = outputs_of(triton.infer("ensemble", inputs))
    assert outputs["text_output"].shape == (1, 1)
    assert outputs["text_output"][0, 0].decode().strip() == answer["greedy_text"].strip()
    with Stream(triton_cluster.gateway.address) as stream:
        stream.send("ensemble", [*inputs, column("stream", [True], bool)])
        pieces = [result.as_numpy("text_output")[0, 0].decode() for result in stream.collect()]
        assert "".join(pieces) == outputs["text_output"][0, 0].decode()
        assert len(pieces) > 3
        stream.send("ensemble", [*inputs, column("stream", [False], bool)])
        assert len(stream.collect()) == 1


def test_prompt_left_out_and_deltas_on_the_old_names(triton, triton_cluster):
    whole = outputs_of(triton.infer("ensemble", ensemble_inputs([PROMPT], 11)))["OUTPUT_0"][0]
    inputs = ensemble_inputs([PROMPT], 11, exclude_input_in_output=True)
    alone = outputs_of(triton.infer("ensemble", inputs))
    assert whole == b"<s> " + PROMPT.encode() + alone["OUTPUT_0"][0]
    assert alone["sequence_length"][0, 0] == 11
    with Stream(triton_cluster.gateway.address) as stream:
        stream.send("ensemble", ensemble_inputs([PROMPT], 11), parameters={"stream_delta": True})
        assert b"".join(result.as_numpy("OUTPUT_0")[0] for result in stream.collect()) == whole


@pytest.mark.parametrize("word", ["girl", "named Mia", " curious"])
def test_stop_words_as_text(triton, word):
    free = outputs_of(triton.infer("ensemble", ensemble_inputs([PROMPT], 30)))
    assert word in free["OUTPUT_0"][0].decode()
    stopped = outputs_of(triton.infer("ensemble", ensemble_inputs([PROMPT], 30, stop_words=f'"{word}",zzz')))
    text = stopped["OUTPUT_0"][0].decode()
    assert text.endswith(word) and free["OUTPUT_0"][0].decode().startswith(text)
    assert stopped["sequence_length"][0, 0] < free["sequence_length"][0, 0]


def test_stop_and_bad_words_as_ids(triton):
    prompt = [1, 80, 90, 100]
    free = outputs_of(triton.infer("fastertransformer", transformer_inputs([prompt], 12)))["output_ids"][0, 0]
    generated = free[4:].tolist()
    stop = [[generated[3:5], [2, -1]]]
    outputs = outputs_of(triton.infer("fastertransformer", transformer_inputs([prompt], 12, stop_words_list=stop)))
    first = next(i for i in range(len(generated)) if generated[i:i + 2] == generated[3:5])
    assert outputs["sequence_length"][0, 0] == 4 + first + 2
    assert outputs["output_ids"][0, 0, :4 + first + 2].tolist() == free[:4 + first + 2].tolist()
    bad = [[[generated[0]], [1]]]
    outputs = outputs_of(triton.infer("fastertransformer", transformer_inputs([prompt], 12, bad_words_list=bad)))
    assert generated[0] not in outputs["output_ids"][0, 0, 4:]


def test_words_of_preprocessing_stop_fastertransformer(triton):
    free = outputs_of(triton.infer("ensemble", ensemble_inputs([PROMPT], 30)))["OUTPUT_0"][0].decode()
    encoded = outputs_of(triton.infer("preprocessing", [
        column("QUERY", [PROMPT.encode()], "BYTES"), column("BAD_WORDS_DICT", [b""], "BYTES"),
        column("STOP_WORDS_DICT", [b"girl"], "BYTES"), column("REQUEST_OUTPUT_LEN", [30], np.uint32)]))
    outputs = outputs_of(triton.infer("fastertransformer", [
        tensor("input_ids", encoded["INPUT_ID"], np.uint32),
        tensor("input_lengths", encoded["REQUEST_INPUT_LEN"], np.uint32),
        column("request_output_len", [30], np.uint32),
        tensor("stop_words_list", encoded["STOP_WORDS_IDS"], np.int32)]))
    text = outputs_of(triton.infer("postprocessing", [
        tensor("TOKENS_BATCH", outputs["output_ids"], np.uint32),
        tensor("sequence_length", outputs["sequence_length"], np.uint32)]))["OUTPUT"][0].decode()
    assert text.endswith("girl") and free.startswith(text)


def test_rows_of_a_batch_are_what_they_are_alone(triton):
    prompts = [PROMPT, "The dog", "Mia saw a big red ball in the garden and", "A"]
    lengths = [20, 3, 9, 14]
    ks, seeds = [1, 5, 40, 3], [0, 7, 8, 9]
    batch = outputs_of(triton.infer("ensemble", ensemble_inputs(prompts, lengths, runtime_top_k=ks,
                                                                random_seed=seeds)))
    for row, prompt in enumerate(prompts):
        alone = outputs_of(triton.infer("ensemble", ensemble_inputs(
            [prompt], lengths[row], runtime_top_k=ks[row], random_seed=seeds[row])))
        assert alone["OUTPUT_0"][0] == batch["OUTPUT_0"][row]


def test_shared_memory_carries_inputs_and_outputs(triton):
    import tritonclient.utils.shared_memory as shm
    prompt = np.array([[1, 80, 90, 100]], dtype=np.uint32)
    plain = outputs_of(triton.infer("fastertransformer", transformer_inputs([prompt[0].tolist()], 6)))
    regions = [shm.create_shared_memory_region(name, f"/triton_test_{name}", 4096) for name in ("in", "out")]
    try:
        shm.set_shared_memory_region(regions[0], [prompt])
        for name in ("in", "out"):
            triton.register_system_shared_memory(name, f"/triton_test_{name}", 4096)
        status = triton.get_system_shared_memory_status(as_json=True)["regions"]
        assert set(status) == {"in", "out"} and status["in"]["byte_size"] == "4096"
        inputs = transformer_inputs([prompt[0].tolist()], 6)
        inputs[0] = triton_grpc.InferInput("input_ids", [1, 4], "UINT32")
        inputs[0].set_shared_memory("in", 16)
        output = triton_grpc.InferRequestedOutput("output_ids")
        output.set_shared_memory("out", 1024, offset=64)
        result = triton.infer("fastertransformer", inputs,
                              outputs=[output, triton_grpc.InferRequestedOutput("sequence_length")])
        assert result.as_numpy("sequence_length").tolist() == [[10]]
        assert result.get_response().raw_output_contents[0] == b""
        ids = shm.get_contents_as_numpy(regions[1], np.uint32, [1, 1, 10], offset=64)
        assert ids.tolist() == plain["output_ids"].tolist()
        output.set_shared_memory("out", 8)
        with failing("INVALID_ARGUMENT", "'output_ids'", "should be at least 40 bytes"):
            triton.infer("fastertransformer", inputs, outputs=[output])
        inputs[0].set_shared_memory("in", 16, offset=4090)
        with failing("INVALID_ARGUMENT", "'input_ids'", "offset"):
            triton.infer("fastertransformer", inputs)
        triton.unregister_system_shared_memory("in")
        with failing("INVALID_ARGUMENT", "Unable to find shared memory region: 'in'"):
            triton.infer("fastertransformer", inputs)
    finally:
        triton.unregister_system_shared_memory()
        for region in regions:
            shm.destroy_shared_memory_region(region)


def test_statistics_count(triton):
    before = {m["name"]: m for m in triton.get_inference_statistics(as_json=True)["model_stats"]}
    triton.infer("ensemble", ensemble_inputs([PROMPT] * 3, 5))
    with failing("INVALID_ARGUMENT"):
        triton.infer("fastertransformer", transformer_inputs([[1, 4_000_000]], 5))
    after = {m["name"]: m for m in triton.get_inference_statistics(as_json=True)["model_stats"]}

    def grown(model, *path):
        value = lambda stats: int(json_path(stats, path))
        return value(after[model]) - value(before[model])

    for model in ("ensemble", "preprocessing", "fastertransformer", "postprocessing"):
        assert grown(model, "inference_count") == 3, "a batch of n counts n"
        assert grown(model, "execution_count") == 1
        assert grown(model, "inference_stats", "success", "count") == 1
        assert grown(model, "inference_stats", "success", "ns") > 0
    assert grown("fastertransformer", "inference_stats", "fail", "count") == 1
    assert grown("ensemble", "inference_stats", "compute_infer", "ns") > 0
    batch = [stats for stats in after["ensemble"]["batch_stats"] if stats["batch_size"] == "3"]
    assert len(batch) == 1
    only = triton.get_inference_statistics("ensemble", as_json=True)["model_stats"]
    assert [stats["name"] for stats in only] == ["ensemble"]


def json_path(value, path):
    for key in path:
        value = value.get(key, {}) if isinstance(value, dict) else value
    return value or 0


def test_traces_are_written(tmp_path):
    file = tmp_path / "trace.json"
    with Cluster(gateway_flags=[f"--triton_trace_file={file}"]) as cluster:
        with triton_grpc.InferenceServerClient(cluster.gateway.address) as client:
            assert client.get_trace_settings(as_json=True)["settings"]["trace_level"]["value"] == ["OFF"]
            settings = {"trace_level": ["TIMESTAMPS", "TENSORS"], "trace_rate": "1", "trace_count": "2",
                        "log_frequency": "1"}
            answer = client.update_trace_settings(settings=settings, as_json=True)["settings"]
            assert answer["trace_rate"]["value"] == ["1"]
            for index in range(3):
                client.infer("ensemble", ensemble_inputs([PROMPT], 4), request_id=f"t{index}")
            assert client.get_trace_settings(as_json=True)["settings"]["trace_count"]["value"] == ["0"]
            with failing("UNIMPLEMENTED", "trace file location"):
                client.update_trace_settings(settings={"trace_file": "/tmp/other"})
            with failing("INVALID_ARGUMENT", "trace_rate"):
                client.update_trace_settings(settings={"trace_rate": "0"})
    for index in range(2):
        objects = json.loads((tmp_path / f"trace.json.{index}").read_text())
        assert objects[0]["model_name"] == "ensemble" and objects[0]["request_id"] == f"t{index}"
        stamps = [stamp["name"] for entry in objects for stamp in entry.get("timestamps", [])]
        assert stamps[0] == "REQUEST_START" and stamps[-1] == "REQUEST_END" and "COMPUTE_START" in stamps
        assert any(entry.get("tensor", {}).get("name") == "OUTPUT_0" for entry in objects)
        assert any(entry.get("tensor", {}).get("name") == "INPUT_0" for entry in objects)
    assert not (tmp_path / "trace.json.2").exists()


def test_log_settings_act():
    with Cluster() as cluster, triton_grpc.InferenceServerClient(cluster.gateway.address) as client:
        settings = client.get_log_settings(as_json=True)["settings"]
        assert settings["log_info"]["bool_param"] is True
        client.infer("ensemble", ensemble_inputs([PROMPT], 2), request_id="seen-in-the-log")
        assert "seen-in-the-log" in cluster.gateway.log
        client.update_log_settings({"log_info": False})
        client.infer("ensemble", ensemble_inputs([PROMPT], 2), request_id="not-in-the-log")
        client.update_log_settings({"log_info": True})
        client.infer("ensemble", ensemble_inputs([PROMPT], 2), request_id="in-the-log-again")
        assert "not-in-the-log" not in cluster.gateway.log
        assert "in-the-log-again" in cluster.gateway.log
        with failing("INVALID_ARGUMENT", "log_format"):
            client.update_log_settings({"log_format": "csv"})


def test_explicit_control_loads_and_unloads():
    flags = ["--triton_model_control_mode=explicit", "--triton_load_models=preprocessing"]
    with Cluster(gateway_flags=flags, loaded=False) as cluster, \
            triton_grpc.InferenceServerClient(cluster.gateway.address) as client:
        def states():
            return {model.name: (model.state, model.reason) for model in client.get_model_repository_index().models}

        assert states()["ensemble"] == ("UNAVAILABLE", "unloaded")
        assert states()["preprocessing"] == ("READY", "")
        with failing("NOT_FOUND", "Request for unknown model: 'ensemble' has no available versions"):
            client.infer("ensemble", ensemble_inputs([PROMPT]))
        client.load_model("ensemble")
        assert all(state == ("READY", "") for state in states().values())
        assert client.infer("ensemble", ensemble_inputs([PROMPT])).as_numpy("OUTPUT_0").shape == (1,)
        client.unload_model("fastertransformer")
        assert not client.is_model_ready("fastertransformer") and not client.is_model_ready("ensemble")
        assert client.is_server_ready()
        with failing("UNAVAILABLE", "'ensemble' version 1 is not at ready state"):
            client.infer("ensemble", ensemble_inputs([PROMPT]))
        with failing("UNIMPLEMENTED", "config"):
            client.load_model("fastertransformer", config="{}")
        client.load_model("fastertransformer")
        client.unload_model("ensemble", unload_dependents=True)
        assert all(state == ("UNAVAILABLE", "unloaded") for state in states().values())


def test_a_response_says_model_version_and_id(triton):
    result = triton.infer("preprocessing", [column("QUERY", [b"a"], "BYTES"),
                                            column("REQUEST_OUTPUT_LEN", [1], np.uint32)],
                          request_id="x-1", model_version="1")
    response = result.get_response()
    assert (response.model_name, response.model_version, response.id) == ("preprocessing", "1", "x-1")
    assert "triton_final_response" not in response.parameters
