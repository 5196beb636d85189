"""Processes that die, stop or are told to go: requests end with UNAVAILABLE at worst, and the cluster serves again."""

import json
import signal
import socket
import subprocess
import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2

from helpers.cluster import Cluster, await_true, collect, failing_with, pb, request

PROMPT = "Once upon a time"
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
LIMIT = pytest.mark.timeout(180)


def start_endless(cluster):
    """A request that has begun to answer and runs for long."""
    call = cluster.generation.Generate(
        request(PROMPT, max_tokens=450, stopping={"ignore_eos": True}, num_samples=16), timeout=60)
    for event in call:
        if event.HasField("tokens"):
            return call
    raise AssertionError("the stream ended without a token")


def answers_as_before(cluster, expected):
    assert cluster.generate(PROMPT, max_tokens=24).token_ids == expected


@LIMIT
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_fails_its_requests_and_the_replica_serves_again_once_it_is_back(rank):
    with Cluster(tensor_parallel=2) as cluster:
        expected = cluster.generate(PROMPT, max_tokens=24).token_ids
        epoch = cluster.replica_infos()[0].epoch
        call = start_endless(cluster)
        cluster.workers[0][rank].signal(signal.SIGKILL)
        with failing_with(UNAVAILABLE):
            collect_loosely(call)
        cluster.restart_worker(0, rank)
        cluster.await_replicas(1)
        answers_as_before(cluster, expected)
        replica = cluster.replica_infos()[0]
        assert rank == 0 or replica.epoch > epoch
        assert [info.pid for info in replica.ranks] == [worker.pid for worker in cluster.workers[0]]


def collect_loosely(call):
    for _ in call:
        pass


@LIMIT
def test_a_replica_of_four_survives_each_follower(golden_answers):
    with Cluster(tensor_parallel=4) as cluster:
        expected = cluster.generate(PROMPT, max_tokens=24).token_ids
        for rank in (1, 2, 3):
            cluster.workers[0][rank].signal(signal.SIGKILL)
            cluster.workers[0][rank].wait()
            cluster.restart_worker(0, rank)
            cluster.await_replicas(1)
            answers_as_before(cluster, expected)


@LIMIT
def test_a_stopped_follower_is_judged_lost_and_fenced_off_when_it_wakes():
    with Cluster(tensor_parallel=2) as cluster:
        expected = cluster.generate(PROMPT, max_tokens=24).token_ids
        call = start_endless(cluster)
        cluster.workers[0][1].signal(signal.SIGSTOP)
        with failing_with(UNAVAILABLE):
            collect_loosely(call)
        await_true(lambda: not cluster.replica_infos()[0].ready, "the gateway to see it", limit_s=10)
        cluster.workers[0][1].signal(signal.SIGCONT)
        await_true(lambda: cluster.replica_infos()[0].ready or cluster.workers[0][1].popen.poll() is not None,
                   "the follower to join again or to end")
        if cluster.workers[0][1].popen.poll() is not None:
            cluster.restart_worker(0, 1)
        cluster.await_replicas(1)
        answers_as_before(cluster, expected)


@LIMIT
def test_another_replica_serves_while_one_is_down():
    with Cluster(replicas=2) as cluster:
        expected = cluster.generate(PROMPT, max_tokens=24).token_ids
        cluster.workers[0][0].signal(signal.SIGKILL)
        cluster.workers[0][0].wait()
        cluster.await_replicas(1)
        for _ in range(4):
            answers_as_before(cluster, expected)
        cluster.restart_worker(0, 0)
        cluster.await_replicas(2)
        answers_as_before(cluster, expected)


@LIMIT
def test_requests_wait_for_a_replica_that_is_restarting():
    with Cluster() as cluster:
        expected = cluster.generate(PROMPT, max_tokens=24).token_ids
        cluster.workers[0][0].signal(signal.SIGKILL)
        cluster.workers[0][0].wait()
        cluster.await_replicas(0)
        results = []
        waiting = threading.Thread(
            target=lambda: results.append(cluster.generate(PROMPT, max_tokens=24).token_ids))
        waiting.start()
        cluster.restart_worker(0, 0)
        waiting.join(timeout=60)
        assert results == [expected]


@LIMIT
def test_a_tokenizer_that_is_restarted_is_used_again():
    with Cluster() as cluster:
        expected = cluster.generate(PROMPT, max_tokens=24).token_ids
        port = cluster.tokenizer.ports["grpc"]
        cluster.tokenizer.signal(signal.SIGKILL)
        cluster.tokenizer.wait()
        arguments = cluster.tokenizer.popen.args[3:4] + [f"--model={cluster.model}"]
        cluster.tokenizer = cluster.launch("tokenizer", *arguments, f"--listen_address=127.0.0.1:{port}",
                                           "--metrics_address=127.0.0.1:0").await_ports()
        answers_as_before(cluster, expected)


@LIMIT
def test_sigterm_lets_the_gateways_requests_finish():
    with Cluster(gateway_flags=["--lameduck_ms=0", "--drain_timeout_ms=60000"]) as cluster:
        call = cluster.generation.Generate(request(PROMPT, max_tokens=300, stopping={"ignore_eos": True}), timeout=60)
        events = iter(call)
        first = next(events)
        cluster.gateway.signal(signal.SIGTERM)
        result = collect([first, *events])
        assert len(result.token_ids) == 300
        assert result.finished.reason == pb.Finished.LENGTH
        assert cluster.gateway.wait() == 0


# What the HTTP server had for its client was cut off after two seconds.
@LIMIT
def test_sigterm_waits_for_a_client_that_reads_an_http_answer_slowly():
    rows = 512
    body = json.dumps({"inputs": [
        {"name": "QUERY", "shape": [rows, 1], "datatype": "BYTES", "data": ["ab " * 5000] * rows},
        {"name": "REQUEST_OUTPUT_LEN", "shape": [rows, 1], "datatype": "UINT32", "data": [1] * rows}]}).encode()
    with Cluster(gateway_flags=["--lameduck_ms=0", "--drain_timeout_ms=60000"]) as cluster, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect(("127.0.0.1", cluster.gateway.ports["http"]))
        client.sendall(b"POST /v2/models/preprocessing/infer HTTP/1.1\r\nHost: x\r\n"
                       b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        assert client.recv(1, socket.MSG_PEEK), "the answer begins"
        cluster.gateway.signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            cluster.gateway.wait(4)
        answer = bytearray()
        while piece := client.recv(1 << 20):
            answer += piece
        head, text = answer.split(b"\r\n\r\n", 1)
        assert len(text) > 8 << 20, "more than the system takes at once"
        assert f"Content-Length: {len(text)}".encode() in head and json.loads(text)
        assert cluster.gateway.wait() == 0
        assert "requests_cut_off=0" in cluster.gateway.log


@LIMIT
def test_readiness_falls_at_once_while_new_requests_are_still_taken():
    with Cluster(gateway_flags=["--lameduck_ms=60000"]) as cluster:
        cluster.gateway.signal(signal.SIGTERM)
        cluster.gateway.await_serving(wanted=health_pb2.HealthCheckResponse.NOT_SERVING, limit_s=10)
        assert len(cluster.generate(PROMPT, max_tokens=4).token_ids) == 4


@LIMIT
def test_a_drain_that_takes_too_long_is_ended():
    with Cluster(gateway_flags=["--lameduck_ms=0", "--drain_timeout_ms=1"]) as cluster:
        call = start_endless(cluster)
        cluster.gateway.signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError):
            collect_loosely(call)
        assert cluster.gateway.wait() == 0


@LIMIT
@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_any_rank_drains_its_replica(rank):
    with Cluster(tensor_parallel=2) as cluster:
        call = cluster.generation.Generate(request(PROMPT, max_tokens=200, stopping={"ignore_eos": True}), timeout=60)
        events = iter(call)
        first = next(events)
        cluster.workers[0][rank].signal(signal.SIGTERM)
        result = collect([first, *events])
        assert len(result.token_ids) == 200
        assert cluster.workers[0][rank].wait() == 0


@LIMIT
def test_every_process_ends_by_sigterm_with_zero():
    with Cluster(tensor_parallel=2) as cluster:
        for process in (cluster.gateway, cluster.tokenizer, cluster.workers[0][0], cluster.workers[0][1]):
            process.signal(signal.SIGTERM)
            assert process.wait() == 0, process.log
