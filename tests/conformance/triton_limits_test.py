"""What is too large is refused for good, in the words of the tensors; what is within limits works in any number."""

import json
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from helpers.cluster import Cluster, failing_with, pb, request
from helpers.triton import column, ensemble_inputs, failing, outputs_of, tensor, transformer_inputs

PROMPT = "Once upon a time"
# So small that requests of a few kilobytes are above them.
TOKENIZER_LIMITS = ["--max_text_bytes=1000", "--max_batch_inputs=6", "--max_message_bytes=4000",
                    "--max_decode_tokens=100"]


@pytest.fixture(scope="module")
def small(triton_cluster):
    with Cluster(tokenizer_flags=TOKENIZER_LIMITS) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def small_triton(small):
    with triton_grpc.InferenceServerClient(small.gateway.address) as client:
        yield client


def preprocessing_inputs(queries, bad_words=None):
    words = [] if bad_words is None else [column("BAD_WORDS_DICT", [word.encode() for word in bad_words], "BYTES")]
    return [column("QUERY", [query.encode() for query in queries], "BYTES"), *words,
            column("REQUEST_OUTPUT_LEN", [1] * len(queries), np.uint32)]


LONG = "a" * 1001
TEXT_LIMIT = "has 1001 bytes of text; at most 1000 are allowed"


@pytest.mark.parametrize("model,inputs,tensor_name", [
    ("ensemble", lambda: ensemble_inputs(["a", LONG]), "INPUT_0 of row 1 "),
    ("ensemble", lambda: ensemble_inputs([PROMPT], bad_words=f"b,{LONG}"), "INPUT_2 of row 0: word 1 "),
    ("ensemble", lambda: [column("text_input", [LONG.encode()], "BYTES")], "text_input of row 0 "),
    ("preprocessing", lambda: preprocessing_inputs(["a", LONG]), "QUERY of row 1 "),
    ("preprocessing", lambda: preprocessing_inputs(["a"], [LONG]), "BAD_WORDS_DICT of row 0: word 0 "),
], ids=lambda value: value.split()[0] if isinstance(value, str) else "")
def test_a_text_above_the_limit_names_its_tensor(small_triton, model, inputs, tensor_name):
    with failing("INVALID_ARGUMENT", f"[request id: 5] {tensor_name}{TEXT_LIMIT}"):
        small_triton.infer(model, inputs(), request_id="5")


def test_text_limits_over_http_do_not_invite_to_try_again(small):
    body = {"inputs": [{"name": name, "shape": [1, 1], "datatype": kind, "data": [value]} for name, kind, value in (
        ("INPUT_0", "BYTES", LONG), ("INPUT_1", "UINT32", 1), ("INPUT_2", "BYTES", ""), ("INPUT_3", "BYTES", ""))]}
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{small.gateway.http_address}/v2/models/ensemble/infer",
                               json.dumps(body).encode(), timeout=60)
    assert refused.value.code == 400 and "Retry-After" not in refused.value.headers
    assert f"INPUT_0 of row 0 {TEXT_LIMIT}" in json.load(refused.value)["error"]


def test_a_sequence_above_the_limit_names_its_tensor(small_triton):
    with failing("INVALID_ARGUMENT", "sequence_length of sequence 1 is 101; it must be at most 100"):
        small_triton.infer("postprocessing", [tensor("TOKENS_BATCH", np.full((2, 1, 101), 80), np.uint32),
                                              column("sequence_length", [1, 101], np.uint32)])


def test_many_rows_take_several_calls_of_the_tokenizer(small_triton, triton):
    """More inputs, bytes and ids than one call takes: the answers of all of them, in order."""
    queries = [f"{row} " + "word " * (row * 7 % 190) for row in range(40)]
    words = ["bad,words" if row % 2 else "" for row in range(40)]
    inputs = preprocessing_inputs(queries, words)
    encoded = outputs_of(small_triton.infer("preprocessing", inputs))
    expected = outputs_of(triton.infer("preprocessing", inputs))
    assert {name: value.tolist() for name, value in encoded.items()} == {
        name: value.tolist() for name, value in expected.items()}
    ids = np.array([[[80 + row] * 90] for row in range(20)])
    sequences = [tensor("TOKENS_BATCH", ids, np.uint32), column("sequence_length", range(50, 70), np.uint32)]
    assert outputs_of(small_triton.infer("postprocessing", sequences))["OUTPUT"].tolist() == outputs_of(
        triton.infer("postprocessing", sequences))["OUTPUT"].tolist()
    prompts = [f"{row} is a number" for row in range(10)]
    assert outputs_of(small_triton.infer("ensemble", ensemble_inputs(prompts, 1)))["sequence_length"].shape == (10, 1)


def test_a_batch_above_the_tokenizers_message_is_served(triton):
    """1024 rows of 20 kB: 20 MB, where one message to the tokenizer has at most 16 MiB."""
    rows = 1024
    text = "ab " * 6800
    answer = outputs_of(triton.infer("preprocessing", preprocessing_inputs([text] * rows)))
    assert answer["INPUT_ID"].shape[0] == rows and (answer["INPUT_ID"] == answer["INPUT_ID"][0]).all()


def test_a_text_above_the_default_limits_is_no_overload(triton):
    for prompt in ("ab " * 1_500_000, "ab " * 6_000_000):
        with failing("INVALID_ARGUMENT", f"INPUT_0 of row 0 has {len(prompt)} bytes of text; at most 4194304"):
            triton.infer("ensemble", ensemble_inputs([prompt]))
        with failing("INVALID_ARGUMENT", f"QUERY of row 0 has {len(prompt)} bytes of text; at most 4194304"):
            triton.infer("preprocessing", preprocessing_inputs([prompt]))


@pytest.mark.parametrize("fields,words", [
    ({"prompt": LONG}, f"prompt[0].text {TEXT_LIMIT}"),
    ({"prompt": PROMPT, "sampling": {"bad_words": [b"a", LONG.encode()]}}, f"sampling.bad_words[1] {TEXT_LIMIT}"),
    ({"prompt": PROMPT, "sampling": {"bad_token_ids": [pb.TokenIds(ids=[80] * 1025)]}},
     "sampling.bad_token_ids[0] has 1025 tokens; at most 1024 are allowed"),
    ({"prompt": PROMPT, "sampling": {"bad_token_ids": [pb.TokenIds(ids=[n, *[80] * 1000]) for n in range(5)]}},
     "sampling.bad_words and bad_token_ids: 5005 tokens in all; at most 4096 are allowed"),
], ids=["prompt", "bad_words", "bad_token_ids", "together"])
def test_the_native_api_names_its_own_fields(small, fields, words):
    with failing_with(grpc.StatusCode.INVALID_ARGUMENT, words):
        small.generate(**fields)


def test_a_prompt_of_many_parts_takes_several_calls(small):
    parts = pb.GenerateRequest(prompt=[pb.PromptPart(text=b"ab")] * 500,
                               stopping=pb.StoppingParams(max_tokens=1))
    whole = request(PROMPT, max_tokens=1)
    for message in (parts, whole):
        assert [event for event in small.generation.Generate(message, timeout=60) if event.HasField("finished")]


@pytest.mark.parametrize("model,inputs,words", [
    ("ensemble", lambda: ensemble_inputs([PROMPT] * 2, bad_words=["", f"fine,{'é' * 1100}"]),
     "INPUT_2 of row 1: word 1 has "),
    ("ensemble", lambda: ensemble_inputs([PROMPT], 2048), "INPUT_1 of row 0 is 2048; the prompt has "),
    ("ensemble", lambda: [column("text_input", [PROMPT.encode()], "BYTES"), column("max_tokens", [2048], np.int32)],
     "max_tokens of row 0 is 2048; the prompt has "),
    ("ensemble", lambda: [column("text_input", [PROMPT.encode()], "BYTES"), column("max_tokens", [-3], np.int32)],
     "max_tokens of row 0 is -3"),
    ("ensemble", lambda: ensemble_inputs(["ab " * 3000]), "INPUT_0 of row 0 has "),
    ("ensemble", lambda: ensemble_inputs([PROMPT], 2000, beam_width=40), "beam_width is 40"),
    ("fastertransformer", lambda: transformer_inputs([[1, 80], [1]], [4, 2048]),
     "request_output_len of row 1 is 2048; the prompt has "),
    ("fastertransformer", lambda: transformer_inputs([[1, 80]], bad_words_list=[[[80] * 1025, [1025, *[-1] * 1024]]]),
     "bad_words_list of row 0: word 0 has 1025 tokens; at most 1024 are allowed"),
    ("fastertransformer", lambda: transformer_inputs([[1, 80]], stop_words_list=[[[80] * 257, [257, *[-1] * 256]]]),
     "stop_words_list of row 0: word 0 has 257 entries; at most 256 are allowed"),
    ("fastertransformer", lambda: transformer_inputs([[1, 80]], stop_words_list=[[[5, 6], [9, -1]]]),
     "stop_words_list of row 0: end offset 9"),
    ("fastertransformer", lambda: transformer_inputs([[1, 80]], stop_words_list=[[[5, -6], [2, -1]]]),
     "stop_words_list of row 0 has token id -6"),
], ids=["INPUT_2", "INPUT_1", "max_tokens", "max_tokens_below_0", "INPUT_0", "beam_width", "request_output_len",
        "bad_words_list", "stop_words_list", "stop_words_list_offset", "stop_words_list_id"])
def test_limits_behind_the_door_name_tensors(triton, model, inputs, words):
    with failing("INVALID_ARGUMENT", f"[request id: 17] {words}"):
        triton.infer(model, inputs(), request_id="17")
    with failing("INVALID_ARGUMENT", f"[request id: <id_unknown>] {words}"):
        triton.infer(model, inputs())


@pytest.mark.parametrize("parameters,words", [
    ({"stream_delta": 1}, "parameter 'stream_delta' has the wrong kind"),
    ({"stream_interval": 0}, "parameter 'stream_interval' must be an int64 of at least 1")],
    ids=["stream_delta", "stream_interval"])
def test_errors_of_parameters_tell_the_request(triton, parameters, words):
    with failing("INVALID_ARGUMENT", f"[request id: 3] {words}"):
        triton.infer("ensemble", ensemble_inputs([PROMPT]), request_id="3", parameters=parameters)


def test_an_output_region_is_checked_when_it_is_asked_for(triton, triton_cluster):
    """Also where the output would fit: Triton refuses what is beyond the region at once."""
    import tritonclient.utils.shared_memory as shm
    region = shm.create_shared_memory_region("limits", "/limits_test", 4096)
    try:
        triton.register_system_shared_memory("limits", "/limits_test", 4096)
        for size, offset in ((2 ** 40, 0), (4096, 8), (8, 2 ** 40)):
            output = triton_grpc.InferRequestedOutput("sequence_length")
            output.set_shared_memory("limits", size, offset)
            with failing("INVALID_ARGUMENT", "[request id: 1] output 'sequence_length': Invalid offset + byte size for "
                         f"shared memory region: 'limits' has 4096 bytes, asked for {size} at {offset}"):
                triton.infer("ensemble", ensemble_inputs([PROMPT], 2), outputs=[output], request_id="1")
        output.set_shared_memory("nowhere", 8)
        with failing("INVALID_ARGUMENT", "output 'sequence_length': Unable to find shared memory region: 'nowhere'"):
            triton.infer("ensemble", ensemble_inputs([PROMPT], 2), outputs=[output])
        triton_cluster.await_idle()
    finally:
        triton.unregister_system_shared_memory("limits")
        shm.destroy_shared_memory_region(region)


@pytest.mark.parametrize("call", ["load", "unload"])
def test_control_that_is_refused_for_good_does_not_invite_to_try_again(triton_cluster, call):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(
            f"http://{triton_cluster.gateway.http_address}/v2/repository/models/ensemble/{call}", b"{}", timeout=60)
    assert refused.value.code == 503 and "Retry-After" not in refused.value.headers
