"""Greedy text of the bundled model through the whole cluster is what transformers generates."""

import pytest

from helpers.cluster import Cluster, SessionStream, pb

LIMIT = pytest.mark.timeout(300)


def ids_without_eos(answer):
    return answer["greedy_ids"][:-1] if answer["finish"] == "eos" else answer["greedy_ids"]


def check(answer, result):
    # The file has the ids decoded alone, without the space that parts them from the prompt.
    assert result.text.decode().removeprefix(" ") == answer["greedy_text"]
    assert result.token_ids[:len(ids_without_eos(answer))] == ids_without_eos(answer)
    expected = pb.Finished.STOP_TOKEN if answer["finish"] == "eos" else pb.Finished.LENGTH
    assert result.finished.reason == expected
    assert result.started.prompt_tokens == len(answer["prompt_ids"])


@LIMIT
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tensor_parallel", [1, 2, 4])
def test_text_is_that_of_transformers(tensor_parallel, dtype, golden_answers):
    with Cluster(tensor_parallel=tensor_parallel, worker_flags=[f"--dtype={dtype}"]) as cluster:
        for answer in golden_answers:
            check(answer, cluster.generate(answer["prompt"], max_tokens=answer["max_tokens"]))


@LIMIT
def test_many_at_once_on_one_session(demo_cluster, golden_answers):
    session = SessionStream(demo_cluster.generation)
    for index, answer in enumerate(golden_answers):
        session.start(str(index), answer["prompt"], max_tokens=answer["max_tokens"])
    results = session.collect(len(golden_answers))
    session.half_close()
    for index, answer in enumerate(golden_answers):
        check(answer, results[str(index)])


@LIMIT
def test_token_ids_as_prompt_give_the_same(demo_cluster, golden_answers):
    for answer in golden_answers:
        check(answer, demo_cluster.generate(answer["prompt_ids"], max_tokens=answer["max_tokens"]))


@LIMIT
def test_a_resumed_request_goes_on_as_if_never_cut(demo_cluster, golden_answers):
    for answer in golden_answers:
        if len(answer["greedy_ids"]) < 10:
            continue
        result = demo_cluster.generation.Generate(
            pb.GenerateRequest(prompt=[pb.PromptPart(text=answer["prompt"].encode())],
                               sampling=pb.SamplingParams(temperature=0),
                               stopping=pb.StoppingParams(max_tokens=answer["max_tokens"]),
                               output=pb.OutputOptions(token_ids=True), resume_token_ids=answer["greedy_ids"][:5]),
            timeout=60)
        ids = list(answer["greedy_ids"][:5])
        for event in result:
            if event.HasField("tokens"):
                assert event.tokens.first_position == len(ids)
                ids += event.tokens.token_ids
        assert ids[:len(ids_without_eos(answer))] == ids_without_eos(answer)


@LIMIT
def test_two_replicas_share_the_work(golden_answers):
    with Cluster(replicas=2) as cluster:
        session = SessionStream(cluster.generation)
        for index in range(20):
            answer = golden_answers[index % len(golden_answers)]
            session.start(str(index), answer["prompt"], max_tokens=answer["max_tokens"])
        results = session.collect(20)
        session.half_close()
        for index in range(20):
            check(golden_answers[index % len(golden_answers)], results[str(index)])
