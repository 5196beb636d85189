"""A thousand streams over HTTP at once, on the real cluster."""

import asyncio
import json

import aiohttp
import pytest

from helpers.cluster import await_true

STREAMS = 1000
TOKENS = 8


async def read_stream(session, url, prompt):
    body = {"INPUT_0": prompt, "INPUT_1": TOKENS, "INPUT_2": "", "INPUT_3": ""}
    texts = []
    async with session.post(url, json=body) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if line.startswith(b"data: "):
                event = json.loads(line[len(b"data: "):])
                assert "error" not in event, event
                texts.append(event["OUTPUT_0"])
    return texts


@pytest.mark.timeout(300)
def test_a_thousand_streams_at_once_all_end_well(demo_cluster):
    url = f"http://{demo_cluster.gateway.http_address}/v2/models/ensemble/generate_stream"
    prompts = [f"Once upon a time {i % 10}" for i in range(STREAMS)]

    async def run():
        connector = aiohttp.TCPConnector(limit=STREAMS)
        timeout = aiohttp.ClientTimeout(total=240)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            return await asyncio.gather(*(read_stream(session, url, prompt) for prompt in prompts))

    streams = asyncio.run(run())
    last = {}
    for prompt, texts in zip(prompts, streams):
        assert texts[-1].startswith("<s> " + prompt)
        for earlier, later in zip(texts, texts[1:]):
            assert later.startswith(earlier.rstrip("�"))
        # Greedy: what a request yields does not depend on what runs beside it.
        assert last.setdefault(prompt, texts[-1]) == texts[-1]
    await_true(lambda: demo_cluster.gateway.metrics()["caravan_gateway_http_connections"] == 0, "no connections")
    demo_cluster.await_idle()
