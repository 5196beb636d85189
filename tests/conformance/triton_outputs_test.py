"""Outputs equal a plain reference of FasterTransformer's semantics: greedy and beams exactly, draws by distribution."""

import dataclasses

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from helpers import fastertransformer_reference as reference
from helpers.cluster import DEMO_MODEL, Cluster
from helpers.triton import Stream, column, ensemble_inputs, outputs_of, tensor, transformer_inputs

TOLERANCE = 2e-3  # of log probabilities: float32 against float64 through eight layers
SENT_AS = {"diversity": "beam_search_diversity_rate", "top_k": "runtime_top_k", "top_p": "runtime_top_p"}


@pytest.fixture(scope="module")
def model():
    return reference.Model(DEMO_MODEL)


@pytest.fixture(scope="module")
def prompts(golden_answers):
    return [answer["prompt_ids"] for answer in golden_answers if len(answer["prompt_ids"]) < 40][:4]


def pack(words):
    if not words:
        return [[0], [-1]]
    ids = [token for word in words for token in word]
    ends = np.cumsum([len(word) for word in words]).tolist()
    return [ids, ends + [-1] * (len(ids) - len(ends))]


def ask(triton, prompt, p, rows=1, **others):
    sent = {SENT_AS.get(field.name, field.name): getattr(p, field.name) for field in dataclasses.fields(p)
            if field.name not in ("output_len", "bad_words", "stop_words") and
            getattr(p, field.name) != field.default}
    if p.bad_words:
        sent["bad_words_list"] = [pack(p.bad_words)] * rows
    if p.stop_words:
        sent["stop_words_list"] = [pack(p.stop_words)] * rows
    return outputs_of(triton.infer("fastertransformer", transformer_inputs(
        [prompt] * rows, p.output_len, is_return_log_probs=True, **sent, **others)))


def check(outputs, beam, prompt, ids, total, p):
    count = len(prompt) + len(ids)
    assert outputs["output_ids"][0, beam, :count].tolist() == [*prompt, *ids]
    assert (outputs["output_ids"][0, beam, count:] == p.end_id).all()
    assert outputs["sequence_length"][0, beam] == count
    assert outputs["cum_log_probs"][0, beam] == pytest.approx(total, abs=TOLERANCE)


@pytest.mark.parametrize("changes", [
    {}, {"repetition_penalty": 1.3}, {"repetition_penalty": 0.8}, {"temperature": 0.5},
    {"temperature": 2.0, "repetition_penalty": 1.1}, {"min_length": 30}, {"presence_penalty": 1.5}, {"end_id": 13}])
def test_greedy(triton, model, prompts, changes):
    for prompt in prompts:
        p = reference.Parameters(output_len=32, **changes)
        ids, log_probs = reference.greedy(model, prompt, p)
        outputs = ask(triton, prompt, p)
        check(outputs, 0, prompt, ids, sum(log_probs), p)
        # Renormalized among one candidate: the succeeded system's value.
        assert (outputs["output_log_probs"][0, 0] == 0).all()


def test_greedy_with_word_lists(triton, model, prompts):
    for prompt in prompts:
        free, _ = reference.greedy(model, prompt, reference.Parameters(output_len=24))
        lists = [{"bad_words": ((free[0],),)}, {"bad_words": (tuple(free[1:3]), tuple(free[4:7]))},
                 {"stop_words": (tuple(free[5:7]),)}, {"stop_words": ((prompt[-1], free[0]),)},
                 {"stop_words": ((free[3],), (free[8], free[9]))}]
        for changes in lists:
            p = reference.Parameters(output_len=24, **changes)
            ids, log_probs = reference.greedy(model, prompt, p)
            check(ask(triton, prompt, p), 0, prompt, ids, sum(log_probs), p)


@pytest.mark.parametrize("width", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("changes", [
    {}, {"len_penalty": 1.0}, {"len_penalty": -1.0}, {"diversity": 0.3}, {"diversity": -0.5, "len_penalty": 0.5},
    {"temperature": 0.7, "repetition_penalty": 1.2}])
def test_beams(triton, model, prompts, width, changes):
    for prompt in prompts[:2]:
        p = reference.Parameters(output_len=12, beam_width=width, **changes)
        expected = reference.beams(model, prompt, p)
        outputs = ask(triton, prompt, p)
        assert outputs["output_ids"].shape == (1, width, len(prompt) + 12)
        for beam, (ids, log_probs, total) in enumerate(expected):
            check(outputs, beam, prompt, ids, total, p)
            assert outputs["output_log_probs"][0, beam, :len(ids)] == pytest.approx(log_probs, abs=TOLERANCE)


@pytest.mark.parametrize("width", [2, 5])
def test_beams_of_several_rows(triton, model, prompts, width):
    """Rows of other lengths, each with its own values: each is what it is alone, behind the padded prompt's length."""
    rows = [reference.Parameters(output_len=length, beam_width=width, len_penalty=penalty, diversity=rate)
            for length, penalty, rate in [(10, 0.0, 0.0), (6, 1.0, 0.3), (8, -1.0, 0.0)]]
    padded = max(len(prompt) for prompt in prompts[:3])
    longest = max(p.output_len for p in rows)
    outputs = outputs_of(triton.infer("fastertransformer", transformer_inputs(
        prompts[:3], [p.output_len for p in rows], beam_width=width, is_return_log_probs=True,
        len_penalty=[p.len_penalty for p in rows], beam_search_diversity_rate=[p.diversity for p in rows])))
    assert len({len(prompt) for prompt in prompts[:3]}) > 1, "prompts of different lengths"
    assert outputs["output_ids"].shape == (3, width, padded + longest)
    assert outputs["output_log_probs"].shape == (3, width, longest)
    for row, (prompt, p) in enumerate(zip(prompts, rows)):
        for beam, (ids, log_probs, total) in enumerate(reference.beams(model, prompt, p)):
            count = len(prompt) + len(ids)
            assert outputs["output_ids"][row, beam, :count].tolist() == [*prompt, *ids]
            assert (outputs["output_ids"][row, beam, count:] == p.end_id).all()
            assert outputs["sequence_length"][row, beam] == padded + len(ids)
            assert outputs["cum_log_probs"][row, beam] == pytest.approx(total, abs=TOLERANCE)
            assert outputs["output_log_probs"][row, beam, :len(ids)] == pytest.approx(log_probs, abs=TOLERANCE)


def decoded(triton, ids):
    return outputs_of(triton.infer("postprocessing", [
        tensor("TOKENS_BATCH", [[ids]], np.uint32), column("sequence_length", [len(ids)], np.uint32)]))["OUTPUT"][0]


@pytest.mark.parametrize("changes", [{}, {"repetition_penalty": 1.3}, {"beam_width": 3},
                                     {"beam_width": 4, "len_penalty": 1.0, "temperature": 0.7}])
def test_ensemble(triton, model, golden_answers, changes):
    """Texts, lengths and log probabilities of the text model, two rows at once."""
    answers = [answer for answer in golden_answers if len(answer["prompt_ids"]) < 40][:2]
    p = reference.Parameters(output_len=12, **changes)
    outputs = outputs_of(triton.infer("ensemble", ensemble_inputs(
        [answer["prompt"] for answer in answers], p.output_len, is_return_log_probs=True, **changes)))
    padded = max(len(answer["prompt_ids"]) for answer in answers)
    assert outputs["OUTPUT_0"].shape == (2 * p.beam_width,)
    assert outputs["output_log_probs"].shape == (2, p.beam_width, p.output_len)
    for row, answer in enumerate(answers):
        prompt = answer["prompt_ids"]
        if p.beam_width > 1:
            expected = reference.beams(model, prompt, p)
        else:
            ids, log_probs = reference.greedy(model, prompt, p)
            expected = [(ids, [0] * len(ids), sum(log_probs))]  # renormalized among one candidate
        for beam, (ids, log_probs, total) in enumerate(expected):
            assert outputs["sequence_length"][row, beam] == padded + len(ids)
            assert outputs["cum_log_probs"][row, beam] == pytest.approx(total, abs=TOLERANCE)
            assert outputs["output_log_probs"][row, beam, :len(ids)] == pytest.approx(log_probs, abs=TOLERANCE)
            assert outputs["OUTPUT_0"][row * p.beam_width + beam] == decoded(triton, [*prompt, *ids])


def test_beams_end_where_the_end_token_is_likely(triton, model, golden_answers):
    answer = next(a for a in golden_answers if a["finish"] == "eos")
    prompt = [*answer["prompt_ids"], *answer["greedy_ids"][:-3]]
    p = reference.Parameters(output_len=10, beam_width=4)
    expected = reference.beams(model, prompt, p)
    assert any(len(ids) < 10 for ids, *_ in expected)
    outputs = ask(triton, prompt, p)
    for beam, (ids, _, total) in enumerate(expected):
        check(outputs, beam, prompt, ids, total, p)


@pytest.mark.parametrize("name", ["ensemble", "fastertransformer"])
@pytest.mark.parametrize("changes", [{}, {"len_penalty": 1.0, "beam_search_diversity_rate": 0.4}])
def test_partial_beams(triton, triton_cluster, golden_answers, name, changes):
    """At each cadence all beams of all rows as they stand: what a search for so many tokens ends with."""
    answers = [answer for answer in golden_answers if len(answer["prompt_ids"]) < 40][:2]
    padded = max(len(answer["prompt_ids"]) for answer in answers)

    def inputs(length):
        options = dict(beam_width=3, is_return_log_probs=True, **changes)
        if name == "ensemble":
            return ensemble_inputs([answer["prompt"] for answer in answers], length, **options)
        return transformer_inputs([answer["prompt_ids"] for answer in answers], length, **options)

    with Stream(triton_cluster.gateway.address) as stream:
        stream.send(name, inputs(24))
        results = [outputs_of(result) for result in stream.collect()]
    lengths = [int(outputs["sequence_length"].max()) for outputs in results]
    assert lengths == [*range(lengths[0], padded + 24, 5), padded + 24] and lengths[0] % 5 == 0 and len(lengths) > 4
    for outputs, length in zip(results, lengths):
        expected = outputs_of(triton.infer(name, inputs(length - padded)))
        assert outputs["sequence_length"].tolist() == expected["sequence_length"].tolist()
        assert outputs["cum_log_probs"].tolist() == pytest.approx(expected["cum_log_probs"])
        steps = expected["output_log_probs"].shape[2]
        assert outputs["output_log_probs"].shape == (2, 3, 24)
        assert np.allclose(outputs["output_log_probs"][:, :, :steps], expected["output_log_probs"], atol=1e-5)
        if name == "ensemble":
            assert outputs["OUTPUT_0"].tolist() == expected["OUTPUT_0"].tolist()
        else:
            assert outputs["output_ids"].shape == (2, 3, padded + 24)
            assert outputs["output_ids"][:, :, :length].tolist() == expected["output_ids"].tolist()
            assert (outputs["output_ids"][:, :, length:] == 2).all()


def test_partial_beams_are_whole_decodings():
    """Random weights: most tokens are pieces of words, and some are bytes that never become a character."""
    options = dict(beam_width=8, temperature=3.0, repetition_penalty=1.3, beam_search_diversity_rate=2.0)
    prompts = ["Once upon a time", "naïve 世界 \U0001f999\n"]
    changed, incomplete = 0, 0
    with Cluster(DEMO_MODEL, worker_flags=["--load_format=dummy"]) as cluster:
        client = triton_grpc.InferenceServerClient(cluster.gateway.address)

        def ids_of(prompt):
            return client.infer("preprocessing", [column("QUERY", [prompt.encode()], "BYTES"), column(
                "REQUEST_OUTPUT_LEN", [1], np.uint32)]).as_numpy("INPUT_ID")[0].tolist()

        def looks(name, inputs):
            with Stream(cluster.gateway.address) as stream:
                stream.send(name, inputs, parameters={"stream_interval": 1})
                return [outputs_of(result) for result in stream.collect()]

        ids = [ids_of(prompt) for prompt in prompts]
        padding = [[[max(map(len, ids)) - len(prompt)]] for prompt in ids]
        ids_at = looks("fastertransformer", transformer_inputs(ids, 60, **options))
        texts_at = looks("ensemble", ensemble_inputs(prompts, 60, **options))
        assert len(ids_at) == len(texts_at) == 60
        last = None
        for shown, texts in zip(ids_at, texts_at):
            assert texts["sequence_length"].tolist() == shown["sequence_length"].tolist()
            tokens = shown["output_ids"]
            wholes = client.infer("postprocessing", [
                tensor("TOKENS_BATCH", tokens, np.uint32),
                tensor("sequence_length", shown["sequence_length"] - np.array(padding)[:, 0], np.uint32)])
            for whole, text in zip(wholes.as_numpy("OUTPUT").flatten(), texts["OUTPUT_0"]):
                whole, text = whole.decode(), text.decode()
                assert whole == text or whole == text + "\ufffd", "a character is shown when it is complete"
                incomplete += whole != text
            length = int(shown["sequence_length"].max()) - 1
            changed += last is not None and (tokens[1, :, :length] != last[1, :, :length]).any()
            last = tokens
    assert changed > 10 and incomplete > 10, "beams took the place of others, and ended within characters"


def test_partial_beams_without_the_prompt(triton, triton_cluster):
    inputs = lambda length: ensemble_inputs(["Once upon a time"], length, beam_width=2, exclude_input_in_output=True)
    with Stream(triton_cluster.gateway.address) as stream:
        stream.send("ensemble", inputs(13))
        results = [outputs_of(result) for result in stream.collect()]
        assert len(results) > 2
        for outputs in results:
            expected = outputs_of(triton.infer("ensemble", inputs(int(outputs["sequence_length"].max()))))
            assert outputs["OUTPUT_0"].tolist() == expected["OUTPUT_0"].tolist()
        # Deltas of beams would contradict each other: they have the final response alone.
        stream.send("ensemble", inputs(13), parameters={"stream_delta": True})
        assert len(stream.collect()) == 1


def chi_square_limit(degrees):
    """The 1 - 1e-6 quantile (Wilson and Hilferty); seeds are fixed, so the test is deterministic."""
    return degrees * (1 - 2 / (9 * degrees) + 4.7534 * np.sqrt(2 / (9 * degrees))) ** 3


@pytest.mark.parametrize("changes", [
    {"top_k": 5}, {"top_k": 50, "temperature": 1.5}, {"top_k": 20, "top_p": 0.7, "temperature": 2.0},
    {"top_p": 0.9, "temperature": 1.3}, {"top_p": 1.0, "temperature": 1.2},
    {"top_k": 30, "temperature": 1.5, "repetition_penalty": 1.3}])
def test_draws_have_the_distribution(triton, model, changes):
    prompt = [1]
    p = reference.Parameters(output_len=1, **changes)
    log_probs = reference.log_softmax(reference.processed_logits(model, prompt, [], p))
    ids, probabilities = reference.kept(log_probs, p)
    expected = dict(zip(ids.tolist(), probabilities))
    counts, draws = {}, 0
    for batch in range(4):
        seeds = list(range(batch * 1024, (batch + 1) * 1024))
        outputs = ask(triton, prompt, p, rows=1024, random_seed=seeds)
        for row, token in enumerate(outputs["output_ids"][:, 0, len(prompt)].tolist()):
            counts[token] = counts.get(token, 0) + 1
            draws += 1
            assert token in expected, "a token outside of what is kept"
            assert outputs["cum_log_probs"][row, 0] == pytest.approx(log_probs[token], abs=TOLERANCE)
            renormalized = 0 < p.top_k <= 20
            within = np.log(np.exp(log_probs[np.argsort(-log_probs)[:p.top_k]]).sum()) if renormalized else 0
            assert outputs["output_log_probs"][row, 0, 0] == pytest.approx(log_probs[token] - within, abs=TOLERANCE)
    common = [token for token, probability in expected.items() if probability * draws >= 5]
    rest = 1 - sum(expected[token] for token in common)
    statistic = sum((counts.get(token, 0) - expected[token] * draws) ** 2 / (expected[token] * draws)
                    for token in common)
    degrees = len(common) - 1
    if rest * draws >= 5:
        seen = draws - sum(counts.get(token, 0) for token in common)
        statistic += (seen - rest * draws) ** 2 / (rest * draws)
        degrees += 1
    assert degrees >= 2, "a distribution worth testing"
    assert statistic < chi_square_limit(degrees)


def test_a_factual_nucleus_decays_and_is_restored(triton, model):
    """p becomes max(p · decay, min) after each token: with a min near 0 the second token is the greedy one."""
    prompt = [1]
    p = reference.Parameters(output_len=2, top_p=1.0, temperature=1.5)
    rows = 256
    fixed = dict(top_p_decay=1e-6, top_p_min=1e-6, rows=rows, random_seed=list(range(rows)))
    pairs = ask(triton, prompt, p, **fixed)["output_ids"][:, 0, len(prompt):].tolist()
    greedy_after = lambda first: int(reference.processed_logits(model, [*prompt, first], [], p).argmax())
    assert all(second == greedy_after(first) for first, second in pairs)
    firsts = [first for first, _ in pairs]
    # Among those drawn often, the one after which the model is the least certain.
    certainty = lambda first: reference.log_softmax(
        reference.processed_logits(model, [*prompt, first], [], p)).max()
    reset = min((first for first in set(firsts) if firsts.count(first) >= 6), key=certainty)
    assert np.exp(certainty(reset)) < 0.8
    restored = ask(triton, prompt, p, **fixed, top_p_reset_ids=reset)["output_ids"][:, 0, len(prompt):].tolist()
    assert [pair for pair in restored if pair[0] != reset] == [pair for pair in pairs if pair[0] != reset]
    assert any(second != greedy_after(reset) for first, second in restored if first == reset)
