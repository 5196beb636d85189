"""Beam search of the bundled model through the whole cluster: ids exactly those of a plain NumPy search, log
probabilities within float32's rounding; and the draws of factual nucleus sampling by distribution."""

import collections
import types

import grpc
import numpy as np
import pytest

from helpers import fastertransformer as ft
from helpers.cluster import DEMO_MODEL, Cluster, await_true, collect, failing_with, pb, protos, request
from helpers.numpy_llama import NumpyLlama

LIMIT = pytest.mark.timeout(300)
PROMPTS = ["Once upon a time", "The little dog was very happy because", "One day, Tom and"]


@pytest.fixture(scope="module", params=[1, 2])
def cluster(request):
    with Cluster(tensor_parallel=request.param, worker_flags=["--dtype=float32"]) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def model():
    return NumpyLlama(DEMO_MODEL)


@pytest.fixture(scope="module")
def encode(cluster):
    stub = cluster.tokenizer_stub()
    tokenizer = protos.tokenizer

    def encode(text):
        inputs = [tokenizer.EncodeInput(text=text.encode(), add_bos=True)]
        return list(stub.Encode(tokenizer.EncodeRequest(inputs=inputs), timeout=10).outputs[0].token_ids)
    return encode


def search(cluster, prompt, parameters, logprobs=0, **sampling):
    """The beams of the native API, in order."""
    sampling = {"beam_width": parameters.beam_width, "length_penalty": parameters.length_penalty,
                "beam_diversity_rate": parameters.diversity_rate,
                "repetition_penalty": parameters.repetition_penalty, **sampling}
    stopping = {"min_tokens": parameters.min_length,
                "stop_token_sequences": [pb.TokenIds(ids=word) for word in parameters.stop_words]}
    message = request(prompt, max_tokens=parameters.max_tokens, temperature=parameters.temperature,
                      sampling=sampling, stopping=stopping, output={"logprobs": logprobs})
    beams = [types.SimpleNamespace(ids=[], logprobs=[], text=b"", finished=None, top=[])
             for _ in range(max(1, parameters.beam_width))]
    for event in cluster.generation.Generate(message, timeout=120):
        if event.HasField("tokens"):
            beam = beams[event.tokens.sample_index]
            assert event.tokens.first_position == len(beam.ids)
            beam.ids += event.tokens.token_ids
            beam.logprobs += [entry.logprob for entry in event.tokens.logprobs]
            beam.top += [[(top.token_id, top.logprob) for top in entry.top] for entry in event.tokens.logprobs]
            beam.text += event.tokens.text
        elif event.HasField("finished"):
            assert beams[event.finished.sample_index].finished is None
            beams[event.finished.sample_index].finished = event.finished
    return beams


def check(beams, expected, prompt):
    assert len(beams) == len(expected)
    for beam, wanted in zip(beams, expected):
        assert beam.ids == wanted.tokens[len(prompt):]
        np.testing.assert_allclose(beam.logprobs, wanted.logprobs, atol=2e-4)
        assert beam.finished.cumulative_logprob == pytest.approx(wanted.cumulative, abs=2e-3)
        assert beam.finished.generated_tokens == len(beam.ids)
        assert (beam.finished.reason != pb.Finished.LENGTH) == wanted.finished


@LIMIT
@pytest.mark.parametrize("width", range(1, 9))
def test_beams_are_those_of_the_reference(cluster, model, encode, width):
    for text in PROMPTS:
        prompt = encode(text)
        parameters = ft.Parameters(beam_width=width, max_tokens=24)
        if width == 1:
            ids, logprobs = ft.greedy(model, prompt, parameters)
            result = collect(cluster.generation.Generate(request(
                prompt, max_tokens=24, output={"logprobs": 0}), timeout=60))
            assert result.token_ids == ids
        else:
            check(search(cluster, prompt, parameters), ft.beam_search(model, prompt, parameters), prompt)


@LIMIT
@pytest.mark.parametrize("changes", [
    {"length_penalty": 1.0}, {"length_penalty": -1.5}, {"diversity_rate": 0.3}, {"diversity_rate": -0.2},
    {"temperature": 0.7}, {"temperature": 1.8, "length_penalty": 2.0}, {"repetition_penalty": 1.3},
    {"min_length": 12, "max_tokens": 60}, {"max_tokens": 120, "length_penalty": 1.0}, {"max_tokens": 1},
], ids=str)
def test_parameters_shape_the_search_as_in_the_reference(cluster, model, encode, changes):
    prompt = encode(PROMPTS[0])
    parameters = ft.Parameters(**{"beam_width": 4, "max_tokens": 24, **changes})
    check(search(cluster, prompt, parameters), ft.beam_search(model, prompt, parameters), prompt)


@LIMIT
def test_a_stop_sequence_ends_a_beam(cluster, model, encode):
    prompt = encode(PROMPTS[0])
    free = ft.beam_search(model, prompt, ft.Parameters(beam_width=3, max_tokens=24))
    word = free[0].tokens[len(prompt) + 5:len(prompt) + 7]
    parameters = ft.Parameters(beam_width=3, max_tokens=24, stop_words=[word])
    beams = search(cluster, prompt, parameters)
    check(beams, ft.beam_search(model, prompt, parameters), prompt)
    assert any(beam.finished.reason == pb.Finished.STOP_STRING and not beam.finished.stop_string for beam in beams)


@LIMIT
def test_a_search_does_not_depend_on_what_runs_beside_it(cluster, encode):
    prompts = [encode(text) for text in PROMPTS]
    parameters = ft.Parameters(beam_width=4, max_tokens=24)
    alone = [search(cluster, prompt, parameters) for prompt in prompts]
    calls = [cluster.generation.Generate(request(prompt, max_tokens=24, sampling={"beam_width": 4}), timeout=120)
             for prompt in prompts for _ in range(4)]
    for number, call in enumerate(calls):
        ids = [[] for _ in range(4)]
        for event in call:
            if event.HasField("tokens"):
                ids[event.tokens.sample_index] += event.tokens.token_ids
        assert ids == [beam.ids for beam in alone[number // 4]]
    cluster.await_idle()


@LIMIT
def test_top_log_probabilities_and_text_come_with_the_beams(cluster, encode):
    beams = search(cluster, encode(PROMPTS[0]), ft.Parameters(beam_width=2, max_tokens=12), logprobs=5)
    for beam in beams:
        assert [len(top) for top in beam.top] == [5] * len(beam.ids)
        assert all(top[i][1] >= top[i + 1][1] for top in beam.top for i in range(4))
        assert beam.text
    # The second beam is another one, and no better.
    assert beams[0].ids != beams[1].ids
    assert beams[0].finished.cumulative_logprob >= beams[1].finished.cumulative_logprob


@LIMIT
def test_a_burst_larger_than_a_clients_buffer_comes_whole(cluster, encode):
    """16 beams of 300 tokens: more than the 4096 that are kept for a slow reader."""
    message = request(encode(PROMPTS[0]), max_tokens=300, temperature=1.0, sampling={"beam_width": 16},
                      stopping={"ignore_eos": True}, output={"logprobs": 1})
    lengths = [0] * 16
    for event in cluster.generation.Generate(message, timeout=120):
        if event.HasField("tokens"):
            lengths[event.tokens.sample_index] += len(event.tokens.token_ids)
    assert lengths == [300] * 16


@LIMIT
def test_a_cancelled_search_leaves_nothing(cluster, encode):
    call = cluster.generation.Generate(request(encode(PROMPTS[0]), max_tokens=1500, sampling={"beam_width": 8},
                                               stopping={"ignore_eos": True}), timeout=120)
    assert next(call).HasField("started")
    await_true(lambda: any(replica.running_sequences == 8 for replica in cluster.replica_infos()), "eight beams")
    call.cancel()
    cluster.await_idle()


@LIMIT
def test_what_a_search_cannot_be_is_refused_by_name(cluster):
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    with failing_with(invalid, "beam_width is 17", "16"):
        cluster.generate("x", sampling={"beam_width": 17})
    with failing_with(invalid, "length_penalty is 11"):
        cluster.generate("x", sampling={"beam_width": 2, "length_penalty": 11})
    with failing_with(invalid, "num_samples is 2", "beam_width"):
        cluster.generate("x", sampling={"beam_width": 2}, num_samples=2)
    with failing_with(invalid, "resume_token_ids", "beam_width"):
        cluster.generate("x", sampling={"beam_width": 2, "seed": 1}, resume_token_ids=[5])
    with failing_with(invalid, "beam_width * stopping.max_tokens", "65536"):
        cluster.generate("x", max_tokens=2000, sampling={"beam_width": 8}, output={"logprobs": 20})


def chi_square(counts, probabilities, draws):
    """(statistic, degrees of freedom), tokens that are expected less than 5 times taken together."""
    common = [token for token in np.nonzero(probabilities)[0] if probabilities[token] * draws >= 5]
    expected = [probabilities[token] * draws for token in common]
    observed = [counts[token] for token in common]
    rest = draws - sum(expected)
    if rest > 1e-6:
        expected.append(rest)
        observed.append(draws - sum(observed))
    return sum((o - e) ** 2 / e for o, e in zip(observed, expected)), len(expected) - 1


@LIMIT
@pytest.mark.parametrize("reset", [False, True])
def test_draws_with_a_decaying_top_p_follow_the_reference(cluster, model, encode, reset):
    """After 8 forced tokens (a resume) the next one is drawn many times."""
    prompt = encode(PROMPTS[1])
    output = ft.greedy(model, prompt, ft.Parameters(max_tokens=8, end_id=0))[0]
    parameters = ft.Parameters(top_p=0.95, top_p_decay=0.9, top_p_min=0.1, temperature=2.0,
                               top_p_reset_id=output[5] if reset else -1)
    logits = model.forward([prompt + output], model.new_cache())[0]
    probabilities = ft.distribution(logits, prompt + output, len(prompt), parameters)
    sampling = {"top_p": 0.95, "top_p_decay": 0.9, "top_p_min": 0.1}
    if reset:
        sampling["top_p_reset_id"] = output[5]
    counts = collections.Counter()
    draws = 2000
    calls = [cluster.generation.Generate(
        request(prompt, max_tokens=9, temperature=2.0, sampling={**sampling, "seed": seed},
                resume_token_ids=output, stopping={"ignore_eos": True}), timeout=120) for seed in range(draws)]
    for call in calls:
        counts.update(collect_resumed(call))
    assert not set(counts) - set(np.nonzero(probabilities)[0])
    statistic, freedom = chi_square(counts, probabilities, draws)
    # 5 standard deviations above the mean of the chi-square distribution: the seeds are fixed.
    assert statistic < freedom + 5 * np.sqrt(2 * freedom), (statistic, freedom)


def collect_resumed(call):
    return [token for event in call if event.HasField("tokens") for token in event.tokens.token_ids]
