"""Clients that leave, repeat themselves, half-close, or read nothing disturb nobody and leave nothing behind."""

import os
import threading
import time

import grpc
import pytest

from helpers.cluster import SessionStream, collect, pb, request

PROMPT = "Once upon a time"
ENDLESS = {"max_tokens": 400, "stopping": {"ignore_eos": True}}


@pytest.fixture(autouse=True)
def cluster_gets_idle(demo_cluster):
    yield
    demo_cluster.await_idle()


def endless(**fields):
    return request(PROMPT, max_tokens=400, stopping={"ignore_eos": True}, **fields)


def first_tokens(call):
    for event in call:
        if event.HasField("tokens"):
            return event.tokens
    raise AssertionError("the stream ended without a token")


def test_cancelling_a_call_frees_its_blocks(demo_cluster):
    call = demo_cluster.generation.Generate(endless(), timeout=60)
    first_tokens(call)
    call.cancel()
    demo_cluster.await_idle(limit_s=5)


def test_a_deadline_of_the_call_cancels_it(demo_cluster):
    with pytest.raises(grpc.RpcError) as error:
        collect(demo_cluster.generation.Generate(endless(num_samples=16), timeout=0.05))
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_timeout_ms_of_the_request_ends_it(demo_cluster):
    with pytest.raises(grpc.RpcError) as error:
        collect(demo_cluster.generation.Generate(endless(timeout_ms=1, num_samples=16), timeout=60))
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_cancelling_one_request_of_a_session_leaves_the_others(demo_cluster):
    session = SessionStream(demo_cluster.generation)
    session.start("long", PROMPT, **ENDLESS)
    session.start("short", PROMPT, max_tokens=32)
    session.cancel("long")
    results = session.collect(2)
    session.half_close()
    assert results["long"].finished.reason == pb.Finished.CANCELLED
    assert results["short"].finished.reason == pb.Finished.LENGTH
    assert len(results["short"].token_ids) == 32


def test_cancelling_an_unknown_id_is_ignored(demo_cluster):
    session = SessionStream(demo_cluster.generation)
    session.cancel("nobody")
    session.start("a", PROMPT)
    session.cancel("nobody")
    assert session.collect(1)["a"].finished.reason == pb.Finished.LENGTH
    session.cancel("a")
    session.start("b", PROMPT)
    assert session.collect(1)["b"].finished.reason == pb.Finished.LENGTH
    session.half_close()


def test_a_duplicate_id_is_refused_and_the_first_goes_on(demo_cluster):
    session = SessionStream(demo_cluster.generation)
    session.start("a", PROMPT, **ENDLESS)
    session.start("a", PROMPT, **ENDLESS)
    refused = None
    tokens = 0
    for message in session.call:
        event = message.event.event
        if event.HasField("finished") and event.finished.reason == pb.Finished.ERROR:
            refused = event.finished
        elif event.HasField("finished"):
            break
        elif event.HasField("tokens"):
            tokens += event.tokens.num_tokens
    session.half_close()
    assert refused is not None
    assert refused.code in (grpc.StatusCode.ALREADY_EXISTS.value[0], grpc.StatusCode.INVALID_ARGUMENT.value[0])
    assert tokens == 400


def test_an_id_can_be_used_again_once_its_request_has_finished(demo_cluster):
    session = SessionStream(demo_cluster.generation)
    for _ in range(3):
        session.start("a", PROMPT)
        assert session.collect(1)["a"].finished.reason == pb.Finished.LENGTH
    session.half_close()


def test_half_closing_lets_what_runs_finish(demo_cluster):
    session = SessionStream(demo_cluster.generation)
    for index in range(4):
        session.start(str(index), PROMPT, max_tokens=32)
    session.half_close()
    results = session.collect(4)
    assert all(len(result.token_ids) == 32 for result in results.values())
    assert list(session.call) == []
    assert session.call.code() == grpc.StatusCode.OK


def test_breaking_a_session_cancels_its_requests(demo_cluster):
    session = SessionStream(demo_cluster.generation)
    for index in range(8):
        session.start(str(index), PROMPT, **ENDLESS)
    next(iter(session.call))
    session.call.cancel()
    session.half_close()
    demo_cluster.await_idle(limit_s=5)


def test_a_connection_that_is_cut_cancels_its_requests(demo_cluster):
    channel = grpc.insecure_channel(demo_cluster.gateway.address, options=[("grpc.use_local_subchannel_pool", 1)])
    stub = type(demo_cluster.generation)(channel)
    first_tokens(stub.Generate(endless(), timeout=60))
    channel.close()
    demo_cluster.await_idle(limit_s=5)


def test_credit_paces_a_request(demo_cluster):
    session = SessionStream(demo_cluster.generation)
    session.start("a", PROMPT, max_tokens=32, stopping={"ignore_eos": True})
    session.send(credit=pb.Credit(request_id="a", tokens=4))
    tokens = 0
    for message in session.call:
        event = message.event.event
        tokens += event.tokens.num_tokens
        if event.HasField("tokens"):
            session.send(credit=pb.Credit(request_id="a", tokens=event.tokens.num_tokens))
        if event.HasField("finished"):
            break
    session.half_close()
    assert tokens == 32


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.timeout(180)
def test_clients_that_read_nothing_cost_bounded_memory_and_stall_nobody(demo_cluster):
    before = resident_bytes(demo_cluster.gateway.pid)
    stuck = [SessionStream(demo_cluster.generation, timeout=120) for _ in range(4)]
    for session in stuck:
        for index in range(8):
            session.start(str(index), PROMPT, **ENDLESS)
    done = []
    reader = threading.Thread(target=lambda: done.append(demo_cluster.generate(PROMPT, max_tokens=64)))
    reader.start()
    reader.join(timeout=60)
    assert done and len(done[0].token_ids) == 64, "a client that reads was stalled by others that don't"
    assert resident_bytes(demo_cluster.gateway.pid) - before < 64 << 20
    for session in stuck:
        session.call.cancel()
        session.half_close()


def p99_gap_seconds(cluster, seconds):
    """Between the tokens of requests sent one after the other for this long."""
    gaps = []
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        last = None
        for event in cluster.generation.Generate(endless(), timeout=60):
            if not event.HasField("tokens"):
                continue
            now = time.monotonic()
            if last is not None:
                gaps.append((now - last) / max(1, event.tokens.num_tokens))
            last = now
    return sorted(gaps)[len(gaps) * 99 // 100]


@pytest.mark.skipif("CARAVAN_LONG_TESTS" not in os.environ, reason="a measurement of half a minute: --long")
@pytest.mark.timeout(180)
def test_the_others_p99_stays_within_a_tenth_while_a_client_reads_nothing_for_ten_seconds(demo_cluster):
    p99 = {}
    for reads in (True, False):  # the same work for the engine in both
        session = SessionStream(demo_cluster.generation, timeout=120)
        session.start("other", PROMPT, **ENDLESS)
        if reads:
            threading.Thread(target=session.collect, args=(1,), daemon=True).start()
        p99[reads] = p99_gap_seconds(demo_cluster, 10)
        session.call.cancel()
        session.half_close()
    assert p99[False] < p99[True] * 1.1, (
        f"p99 is {p99[True] * 1e3:.2f} ms beside a client that reads, {p99[False] * 1e3:.2f} ms beside one that doesn't")
