"""Bad requests get a clear error that names what is wrong, and nothing else is disturbed."""

import math

import grpc
import pytest

from helpers.cluster import SessionStream, failing_with, pb, protos, request

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PROMPT = "Once upon a time"

# What is wrong → (fields of the request, words of the sentence).
OUT_OF_RANGE = {
    "temperature below": ({"sampling": {"temperature": -0.1}}, ["temperature"]),
    "temperature above": ({"sampling": {"temperature": 101}}, ["temperature"]),
    "temperature nan": ({"sampling": {"temperature": math.nan}}, ["temperature"]),
    "top_p zero": ({"sampling": {"top_p": 0}}, ["top_p"]),
    "top_p above": ({"sampling": {"top_p": 1.5}}, ["top_p"]),
    "top_k above the vocabulary": ({"sampling": {"top_k": 1 << 30}}, ["top_k"]),
    "min_p": ({"sampling": {"min_p": 2}}, ["min_p"]),
    "repetition_penalty": ({"sampling": {"repetition_penalty": 0}}, ["repetition_penalty"]),
    "presence_penalty": ({"sampling": {"presence_penalty": 101}}, ["presence_penalty"]),
    "frequency_penalty": ({"sampling": {"frequency_penalty": -101}}, ["frequency_penalty"]),
    "logit_bias value": ({"sampling": {"logit_bias": {5: 1000}}}, ["logit_bias"]),
    "logit_bias token": ({"sampling": {"logit_bias": {1 << 30: 1}}}, ["logit_bias"]),
    "empty bad word": ({"sampling": {"bad_words": [b""]}}, ["bad_words"]),
    "bad word that is no UTF-8": ({"sampling": {"bad_words": [b"\xff"]}}, ["bad_words", "UTF-8"]),
    "max_tokens beyond the context": ({"max_tokens": 1 << 30}, ["max_tokens"]),
    "min_tokens above max_tokens": ({"stopping": {"min_tokens": 17}}, ["min_tokens"]),
    "stop token": ({"stopping": {"stop_token_ids": [-1]}}, ["stop_token_ids"]),
    "too many stop tokens": ({"stopping": {"stop_token_ids": list(range(65))}}, ["stop_token_ids", "64"]),
    "empty stop string": ({"stopping": {"stop_strings": [b""]}}, ["stop_strings"]),
    "long stop string": ({"stopping": {"stop_strings": [b"x" * 257]}}, ["stop_strings", "256"]),
    "too many stop strings": ({"stopping": {"stop_strings": [b"x"] * 17}}, ["stop_strings", "16"]),
    "stop string that is no UTF-8": ({"stopping": {"stop_strings": [b"\xc3"]}}, ["stop_strings", "UTF-8"]),
    "stop strings without text": ({"stopping": {"stop_strings": [b"x"]}, "output": {"no_text": True}}, ["no_text"]),
    "logprobs": ({"output": {"logprobs": 21}}, ["logprobs", "20"]),
    "num_samples": ({"num_samples": 17}, ["num_samples", "16"]),
    "priority": ({"priority": 101}, ["priority", "100"]),
    "long request_id": ({"request_id": "x" * 129}, ["request_id", "128"]),
    "request_id with spaces": ({"request_id": "a\nb"}, ["request_id"]),
    "long tenant": ({"tenant": "x" * 129}, ["tenant", "128"]),
}


@pytest.fixture(autouse=True)
def cluster_stays_whole(demo_cluster):
    """After each bad request a good one is answered as ever, and nothing is held."""
    yield
    assert len(demo_cluster.generate(PROMPT, max_tokens=4).token_ids) == 4
    demo_cluster.await_idle()


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_out_of_range_parameters_are_named(name, demo_cluster):
    fields, words = OUT_OF_RANGE[name]
    with failing_with(INVALID, *words):
        demo_cluster.generate(PROMPT, **fields)


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_bad_request_ends_alone_on_its_session(name, demo_cluster):
    fields, words = OUT_OF_RANGE[name]
    session = SessionStream(demo_cluster.generation)
    session.start("good", PROMPT, max_tokens=8)
    bad = request(PROMPT, **fields)
    bad.request_id = bad.request_id or "bad"
    session.send(start=bad)
    session.start("also good", PROMPT, max_tokens=8)
    results = session.collect(3)
    session.half_close()
    wrong = [result.finished for id, result in results.items() if id not in ("good", "also good")]
    assert [finished.reason for finished in wrong] == [pb.Finished.ERROR]
    assert wrong[0].code == INVALID.value[0]
    for word in words:
        assert word.encode() in wrong[0].message
    assert results["good"].finished.reason == results["also good"].finished.reason == pb.Finished.LENGTH
    assert results["good"].token_ids == results["also good"].token_ids


@pytest.mark.parametrize("prompt", [[], [pb.PromptPart(text=b"")], [pb.PromptPart()],
                                    [pb.PromptPart(token_ids=pb.TokenIds())]])
def test_an_empty_prompt_is_refused(prompt, demo_cluster):
    bad = request(PROMPT)
    del bad.prompt[:]
    bad.prompt.extend(prompt)
    with failing_with(INVALID, "prompt"):
        list(demo_cluster.generation.Generate(bad, timeout=30))


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(demo_cluster):
    model = demo_cluster.generation.ListModels(pb.ListModelsRequest()).models[0]
    length = model.max_context_tokens + 1
    with failing_with(INVALID, str(length), str(model.max_context_tokens - 1)):
        demo_cluster.generate([300] * length)


@pytest.mark.parametrize("id", [-1, 1 << 30])
def test_a_token_id_outside_the_vocabulary_is_refused(id, demo_cluster):
    with failing_with(INVALID, str(id)):
        demo_cluster.generate([1, 300, id])


@pytest.mark.parametrize("text", [b"\xff", b"ab\xc3", b"\xed\xa0\x80", b"\xc0\xaf"])
def test_a_prompt_that_is_no_utf8_is_refused(text, demo_cluster):
    with failing_with(INVALID, "UTF-8"):
        demo_cluster.generate(text)


def test_an_unknown_model_is_refused_by_name(demo_cluster):
    with failing_with(grpc.StatusCode.NOT_FOUND, "llama-900b"):
        demo_cluster.generate(PROMPT, model="llama-900b")


def test_an_unknown_adapter_is_refused_by_name(demo_cluster):
    with failing_with(grpc.StatusCode.NOT_FOUND, "french"):
        demo_cluster.generate(PROMPT, adapter="french")


@pytest.mark.parametrize("fields", [
    {"response_format": pb.ResponseFormat(regex=b"a+")},
    {"logits_processors": [pb.LogitsProcessor(name="x")]},
])
def test_what_is_not_served_yet_is_unimplemented(fields, demo_cluster):
    with failing_with(grpc.StatusCode.UNIMPLEMENTED):
        demo_cluster.generate(PROMPT, **fields)


def test_an_oversized_message_ends_only_its_own_stream(demo_cluster):
    session = SessionStream(demo_cluster.generation)
    session.start("a", PROMPT, max_tokens=64)
    # More than the gateway takes in a message, and more than the tokenizer takes in a text.
    with grpc.insecure_channel(demo_cluster.gateway.address, options=[("grpc.max_send_message_length", -1)]) as channel:
        with failing_with(grpc.StatusCode.RESOURCE_EXHAUSTED):
            list(protos.generation_grpc.GenerationStub(channel).Generate(request("x" * (65 << 20)), timeout=60))
    with failing_with(grpc.StatusCode.INVALID_ARGUMENT, f"prompt[0].text has {17 << 20} bytes of text; at most 4194304"):
        demo_cluster.generate("x" * (17 << 20))
    assert session.collect(1)["a"].finished.reason == pb.Finished.LENGTH
    session.half_close()


def test_a_session_wants_request_ids(demo_cluster):
    session = SessionStream(demo_cluster.generation)
    session.send(start=request(PROMPT))
    session.start("good", PROMPT)
    results = session.collect(2)
    session.half_close()
    assert results[""].finished.code == INVALID.value[0]
    assert b"request_id" in results[""].finished.message
    assert results["good"].finished.reason == pb.Finished.LENGTH


def test_an_empty_session_message_does_not_end_the_session(demo_cluster):
    session = SessionStream(demo_cluster.generation)
    session.send()
    session.start("good", PROMPT)
    results = session.collect(2)
    session.half_close()
    assert results[""].finished.code == INVALID.value[0]
    assert results["good"].finished.reason == pb.Finished.LENGTH


def damaged(message):
    """The bytes of a message whose text "MMMM" is no UTF-8, as no Python library would send it."""
    return message.SerializeToString().replace(b"MMMM", b"\xff\xfe\xff\xfe")


def raw_stub(cluster, kind, method, response):
    return getattr(cluster.channel, kind)(f"/caravan.v1.Generation/{method}", request_serializer=bytes,
                                          response_deserializer=response.FromString)


@pytest.mark.parametrize("field", ["request_id", "model", "adapter", "tenant"])
def test_a_name_that_is_no_utf8_is_told_and_its_session_goes_on(field, demo_cluster):
    bad = request(PROMPT, **{"request_id": "bad", field: "MMMM"})
    messages = [pb.SessionRequest(start=request(PROMPT, request_id="first")), pb.SessionRequest(start=bad),
                pb.SessionRequest(start=request(PROMPT, request_id="last"))]
    call = raw_stub(demo_cluster, "stream_stream", "Session", pb.SessionResponse)
    events = [message.event for message in call(iter([damaged(message) for message in messages]), timeout=60)]
    finished = {event.request_id: event.event.finished for event in events if event.event.HasField("finished")}
    assert finished["first"].reason == finished["last"].reason == pb.Finished.LENGTH
    refused = finished["" if field == "request_id" else "bad"]
    assert refused.code == INVALID.value[0]
    assert b"UTF-8" in refused.message


def test_bytes_that_are_no_message_are_told_and_their_session_goes_on(demo_cluster):
    call = raw_stub(demo_cluster, "stream_stream", "Session", pb.SessionResponse)
    good = pb.SessionRequest(start=request(PROMPT, request_id="good")).SerializeToString()
    events = [message.event for message in call(iter([b"\x0a\xff\xff\xff\xff", good]), timeout=60)]
    finished = {event.request_id: event.event.finished for event in events if event.event.HasField("finished")}
    assert finished[""].code == INVALID.value[0]
    assert finished["good"].reason == pb.Finished.LENGTH


def test_a_model_that_is_no_utf8_is_told(demo_cluster):
    call = raw_stub(demo_cluster, "unary_stream", "Generate", pb.GenerateResponse)
    with failing_with(INVALID, "UTF-8"):
        list(call(damaged(request(PROMPT, model="MMMM")), timeout=30))
