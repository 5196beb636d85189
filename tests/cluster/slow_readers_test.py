"""What clients that never read make the gateway keep, against the bound that gateway/config.h states."""

import grpc
import pytest

from helpers.cluster import Cluster, SessionStream, await_true, protos, request

PROMPT = "Once upon a time"
INFLIGHT = 16
BUFFERED_BYTES = 256 << 10
MESSAGE_BYTES = 16 << 10
NUM_CALLS = 4
NUM_IN_SESSION = 92
BOUND_BYTES = 2 * INFLIGHT * (BUFFERED_BYTES + MESSAGE_BYTES) + (2 << 20) + NUM_CALLS * (64 << 10)
# A client whose connection takes little ahead of what it reads.
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 8 << 10),
                ("grpc.use_local_subchannel_pool", 1)]
BIG_TOKENS = 8 * 128
# About 250,000 bytes of output, just below what one request may have: it ends by itself.
BIG = {"max_tokens": 128, "num_samples": 8, "stopping": {"ignore_eos": True}, "output": {"logprobs": 20}}


@pytest.fixture
def cluster():
    with Cluster(gateway_flags=[f"--max_inflight_requests={INFLIGHT}", f"--max_buffered_bytes={BUFFERED_BYTES}",
                                "--slow_reader_timeout_ms=600000", "--queue_timeout_ms=600000"]) as cluster:
        yield cluster


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.timeout(300)
def test_clients_that_never_read_cost_no_more_memory_than_stated(cluster):
    def load():
        metrics = cluster.gateway.metrics()
        return metrics["caravan_gateway_inflight_requests"], metrics["caravan_gateway_queued_requests"]

    def generated_tokens():
        return cluster.gateway.metrics()["caravan_gateway_generated_tokens_total"]

    for _ in range(2 * INFLIGHT):  # what the gateway's own threads and pools take once
        cluster.generate(PROMPT, **BIG)
    before = resident_bytes(cluster.gateway.pid)
    generated_before = generated_tokens()
    channels = [grpc.insecure_channel(cluster.gateway.address, options=SMALL_WINDOW) for _ in range(NUM_CALLS + 1)]
    stubs = [protos.generation_grpc.GenerationStub(channel) for channel in channels]
    calls = [stub.Generate(request(PROMPT, **BIG), timeout=600) for stub in stubs[1:]]
    await_true(lambda: load()[0] + load()[1] == NUM_CALLS, "the calls to arrive")
    session = SessionStream(stubs[0], timeout=600)
    for index in range(NUM_IN_SESSION):
        session.start(str(index), PROMPT, **BIG)
    # All places are held by requests that have ended, and the others wait, however long.
    await_true(lambda: generated_tokens() - generated_before >= INFLIGHT * BIG_TOKENS, "the places to be full", 240)
    cluster.await_idle(limit_s=240)
    growth = resident_bytes(cluster.gateway.pid) - before
    print(f"grew by {growth / 2**20:.1f} MiB; the bound is {BOUND_BYTES / 2**20:.1f} MiB")
    assert growth < BOUND_BYTES, f"grew by {growth} bytes; the bound is {BOUND_BYTES:.0f}"
    assert load()[0] == INFLIGHT
    for call in [*calls, session.call]:
        call.cancel()
    session.half_close()
    await_true(lambda: load() == (0, 0), "the places to come back")
    assert len(cluster.generate(PROMPT, max_tokens=16).token_ids) == 16
    for channel in channels:
        channel.close()
