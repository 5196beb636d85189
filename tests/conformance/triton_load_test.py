"""A load run by the official client: 100 streams and 100 unary requests at once, each answered rightly."""

import asyncio
import time

import numpy as np
import pytest
import tritonclient.grpc.aio as triton_aio

from helpers.triton import ensemble_inputs, is_final, outputs_of

STREAMS = 100
UNARY = 100
TOKENS = 24
PROMPTS = ["Once upon a time", "The dog", "Mia saw a big red ball", "There was a"]


async def one_stream(client, number, expected):
    """Cumulative texts, each a part of the last; returns how many responses came."""
    async def requests():
        yield {"model_name": "ensemble", "request_id": str(number),
               "inputs": ensemble_inputs([PROMPTS[number % len(PROMPTS)]], TOKENS),
               "parameters": {"stream_interval": 1 + number % 5}}

    texts, finals = [], 0
    async for result, error in client.stream_infer(requests()):
        assert error is None, error
        assert result.get_response().id == str(number)
        texts.append(result.as_numpy("OUTPUT_0")[0])
        finals += is_final(result)
    assert finals == 1
    assert texts[-1] == expected[number % len(PROMPTS)]
    assert all(after.startswith(before) for before, after in zip(texts, texts[1:]))
    return len(texts)


async def one_unary(client, number, expected):
    rows = 1 + number % 3
    prompts = [PROMPTS[(number + row) % len(PROMPTS)] for row in range(rows)]
    outputs = outputs_of(await client.infer("ensemble", ensemble_inputs(prompts, TOKENS)))
    assert outputs["OUTPUT_0"].tolist() == [expected[(number + row) % len(PROMPTS)] for row in range(rows)]
    return rows


async def load(address, expected):
    async with triton_aio.InferenceServerClient(address) as client:
        begin = time.monotonic()
        answers = await asyncio.gather(*(one_stream(client, number, expected) for number in range(STREAMS)),
                                       *(one_unary(client, number, expected) for number in range(UNARY)))
        return answers[:STREAMS], answers[STREAMS:], time.monotonic() - begin


def successes(triton, model):
    statistics = triton.get_inference_statistics(model).model_stats[0]
    return statistics.inference_count, statistics.inference_stats.success.count, statistics.inference_stats.fail.count


@pytest.mark.timeout(300)
def test_a_hundred_streams_and_a_hundred_requests_at_once(triton, triton_cluster):
    expected = [outputs_of(triton.infer("ensemble", ensemble_inputs([prompt], TOKENS)))["OUTPUT_0"][0]
                for prompt in PROMPTS]
    before = np.array([successes(triton, model) for model in ("ensemble", "fastertransformer")], np.int64)
    responses, rows, seconds = asyncio.run(load(triton_cluster.gateway.address, expected))
    counted = [successes(triton, model) for model in ("ensemble", "fastertransformer")] - before
    sequences = STREAMS + sum(rows)
    assert counted.tolist() == [[sequences, STREAMS + UNARY, 0]] * 2, "rows, requests, failures"
    print(f"\n{STREAMS} streams ({sum(responses)} responses) and {UNARY} requests ({sum(rows)} rows) of {TOKENS} "
          f"tokens in {seconds:.2f} s: {sequences * TOKENS / seconds:.0f} tokens/s, "
          f"{(STREAMS + UNARY) / seconds:.0f} requests/s")
