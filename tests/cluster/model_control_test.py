"""Loading and unloading through the real processes: the workers' memory, what is told, who rules."""

import json
import shutil
import subprocess
import threading

import grpc
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from helpers.cluster import DEMO_MODEL, PROGRAMS, Cluster, await_true, failing_with, pb, protos
from helpers.triton import ensemble_inputs

worker_pb = protos.worker
EXPLICIT = ["--triton_model_control_mode=explicit"]
START_UNLOADED = ["--load_at_start=false"]
PROMPT = "Once upon a time"
LAYERS = 40  # 705,024 parameters each


@pytest.fixture(scope="module")
def large_model(tmp_path_factory):
    """The bundled model's shape with more layers, random weights: 116 MiB, so that they show in the memory."""
    folder = tmp_path_factory.mktemp("models") / "large"
    folder.mkdir()
    config = json.loads((DEMO_MODEL / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": LAYERS, "torch_dtype": "float32"}))
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(DEMO_MODEL / name, folder)
    return folder


def weight_bytes(tensor_parallel):
    """Of one rank, without embeddings and norms."""
    return LAYERS * 4 * (256 * 256 * 2 + 256 * 128 * 2 + 3 * 256 * 704) // tensor_parallel


def resident_bytes(process):
    for line in open(f"/proc/{process.pid}/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def states(client):
    return {model.name: (model.state, model.reason) for model in client.get_model_repository_index().models}


def replica_states(cluster):
    return [replica.state for replica in cluster.replica_infos()]


def infer(client):
    result = client.infer("ensemble", ensemble_inputs([PROMPT], 12))
    return result.as_numpy("OUTPUT_0").tolist()


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_unloading_frees_the_memory_of_every_rank_and_loading_brings_the_same_model_back(large_model, tensor_parallel):
    with Cluster(large_model, tensor_parallel, worker_flags=["--load_format=dummy"],
                 gateway_flags=[*EXPLICIT, "--triton_load_models=*"]) as cluster, \
            triton_grpc.InferenceServerClient(cluster.gateway.address) as client:
        ranks = cluster.workers[0]
        before = infer(client)
        native = cluster.generate(PROMPT, max_tokens=12).token_ids
        loaded = [resident_bytes(rank) for rank in ranks]
        for _ in range(2):
            client.unload_model("fastertransformer")
            client.unload_model("fastertransformer")  # it is already
            for rank, had in zip(ranks, loaded):
                assert resident_bytes(rank) < had - 0.95 * weight_bytes(tensor_parallel), rank.name
            assert states(client)["fastertransformer"] == ("UNAVAILABLE", "unloaded")
            assert not client.is_model_ready("ensemble") and client.is_server_ready()
            with pytest.raises(InferenceServerException, match="not at ready state"):
                infer(client)
            with failing_with(grpc.StatusCode.UNAVAILABLE, "model 'large' is not loaded: unloaded"):
                cluster.generate(PROMPT)
            assert replica_states(cluster) == ["unloaded"]
            status = cluster.worker_stub().GetStatus(worker_pb.GetWorkerStatusRequest())
            assert status.state == "unloaded"
            assert [rank.state for rank in status.ranks] == ["unloaded"] * tensor_parallel
            assert ranks[0].metrics()["caravan_worker_model_loaded"] == 0
            client.load_model("fastertransformer")
            client.load_model("fastertransformer")
            assert states(client)["fastertransformer"] == ("READY", "")
            assert infer(client) == before
            assert cluster.generate(PROMPT, max_tokens=12).token_ids == native
        assert ranks[0].metrics()["caravan_worker_model_loaded"] == 1
        assert all(rank.popen.poll() is None for rank in ranks)


def test_an_unload_waits_for_what_runs_and_takes_nothing_new():
    with Cluster(gateway_flags=[*EXPLICIT, "--triton_load_models=*"]) as cluster, \
            triton_grpc.InferenceServerClient(cluster.gateway.address) as client:
        stream = cluster.generation.Generate(request_of(1500), timeout=60)
        next(stream)
        unload = threading.Thread(target=client.unload_model, args=("ensemble",), kwargs={"unload_dependents": True})
        unload.start()
        await_true(lambda: states(client)["fastertransformer"][0] != "READY", "the unload to begin")
        if states(client)["fastertransformer"][0] == "UNLOADING":
            with failing_with(grpc.StatusCode.UNAVAILABLE, "unloaded"):
                cluster.generate(PROMPT)
        *_, last = stream
        assert last.finished.generated_tokens == 1500
        unload.join()
        assert states(client)["fastertransformer"] == ("UNAVAILABLE", "unloaded")
        # The last command rules, whatever it finds under way.
        threads = [threading.Thread(target=quietly, args=(call, "fastertransformer"))
                   for call in [client.load_model, client.unload_model] * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.load_model("ensemble")
        assert infer(client)


def test_an_unload_that_a_load_overtakes_is_answered_at_once():
    """It used to wait for the requests that ran, to say then that it had been overtaken."""
    with Cluster(gateway_flags=[*EXPLICIT, "--triton_load_models=*"]) as cluster, \
            triton_grpc.InferenceServerClient(cluster.gateway.address) as client:
        streams = [cluster.generation.Generate(request_of(1900), timeout=60) for _ in range(3)]
        for stream in streams:
            next(stream)
        errors = []

        def unload():
            try:
                client.unload_model("fastertransformer")
            except InferenceServerException as error:
                errors.append(error.message())

        thread = threading.Thread(target=unload)
        thread.start()
        await_true(lambda: states(client)["fastertransformer"][0] == "UNLOADING", "the unload to begin")
        client.load_model("fastertransformer")
        thread.join()
        assert "failed to unload 'fastertransformer', a later command about model 'demo' came in between" in errors[0]
        assert cluster.replica_infos()[0].running_sequences > 0, "answered after the requests that ran"
        for stream in streams:
            *_, last = stream
            assert last.finished.generated_tokens == 1900
        assert infer(client)


def test_a_gateway_refuses_models_to_load_that_it_would_not_load(tmp_path):
    for flags, words in ((["--triton_load_models=*"], "it takes --triton_model_control_mode=explicit"),
                         ([*EXPLICIT, "--triton_load_models=ensemble,nope"], "names 'nope', which is not served")):
        result = subprocess.run([str(PROGRAMS / "caravan_gateway"), "--tokenizers=127.0.0.1:1", "--replicas=127.0.0.1:1",
                                 "--listen_address=127.0.0.1:0", "--http_address=127.0.0.1:0", *flags],
                                capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode != 0 and words in result.stderr, result.stderr


def request_of(tokens):
    return pb.GenerateRequest(prompt=[pb.PromptPart(text=PROMPT.encode())],
                              sampling=pb.SamplingParams(temperature=0),
                              stopping=pb.StoppingParams(max_tokens=tokens, ignore_eos=True))


def quietly(call, *arguments):
    try:
        call(*arguments)
    except InferenceServerException as error:
        assert "later command" in str(error) or "not wanted any more" in str(error), error


def test_a_rank_that_dies_while_unloaded_comes_back_unloaded():
    with Cluster(tensor_parallel=2, worker_flags=START_UNLOADED,
                 gateway_flags=[*EXPLICIT, "--triton_load_models=*"]) as cluster, \
            triton_grpc.InferenceServerClient(cluster.gateway.address) as client:
        before = infer(client)
        client.unload_model("fastertransformer")
        for rank in (1, 0):
            [old] = cluster.replica_infos()
            cluster.restart_worker(0, rank)
            await_true(lambda: joined(cluster) == ["unloaded", "unloaded"], f"rank {rank} to join without a model")
            await_true(lambda: rank == 1 or cluster.replica_infos()[0].instance != old.instance, "the gateway to see it")
            assert replica_states(cluster) == ["unloaded"]
            assert states(client)["fastertransformer"] == ("UNAVAILABLE", "unloaded")
        client.load_model("fastertransformer")
        assert infer(client) == before
        # The same while it is loaded: it is told to load again.
        for rank in (1, 0):
            epoch_of = lambda: [(info.instance, info.epoch) for info in cluster.replica_infos() if info.ready]
            old = epoch_of()
            cluster.restart_worker(0, rank)
            await_true(lambda: epoch_of() not in ([], old), f"the next epoch after rank {rank} died")
            assert infer(client) == before


def joined(cluster):
    try:
        status = cluster.worker_stub().GetStatus(worker_pb.GetWorkerStatusRequest(), wait_for_ready=True, timeout=10)
    except grpc.RpcError:
        return []
    return [rank.state for rank in status.ranks]


def test_a_load_that_fails_says_why_and_a_later_one_succeeds(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, folder)
    with Cluster(folder, 2, gateway_flags=[*EXPLICIT, "--triton_load_models=*"]) as cluster, \
            triton_grpc.InferenceServerClient(cluster.gateway.address) as client:
        before = infer(client)
        client.unload_model("fastertransformer")
        (folder / "model.safetensors").rename(tmp_path / "aside")
        for _ in range(2):
            with pytest.raises(InferenceServerException, match="failed to load 'fastertransformer'.*safetensors") as error:
                client.load_model("fastertransformer")
            assert error.value.status() == "StatusCode.INTERNAL"
            state, reason = states(client)["fastertransformer"]
            assert state == "UNAVAILABLE" and "safetensors" in reason
        with failing_with(grpc.StatusCode.UNAVAILABLE, "safetensors"):
            cluster.generate(PROMPT)
        (tmp_path / "aside").rename(folder / "model.safetensors")
        client.load_model("fastertransformer")
        assert infer(client) == before
        assert all(rank.popen.poll() is None for rank in cluster.workers[0])


def test_gateways_agree_and_one_that_starts_learns_from_the_workers():
    flags = [*EXPLICIT, "--triton_load_models=*"]
    with Cluster(gateway_flags=flags) as cluster:
        arguments = [f"--replicas={cluster.workers[0][0].address}", f"--tokenizers={cluster.tokenizer.address}", *flags]
        program = cluster.gateway.popen.args[3]

        def start_gateway(name):
            return cluster.launch(name, program, "--http_address=127.0.0.1:0", *arguments).await_ports().await_serving()

        second = start_gateway("gateway-2")
        with triton_grpc.InferenceServerClient(cluster.gateway.address) as first_client, \
                triton_grpc.InferenceServerClient(second.address) as second_client:
            before = infer(second_client)
            first_client.unload_model("fastertransformer")
            unloaded = ("UNAVAILABLE", "unloaded")
            await_true(lambda: states(second_client)["fastertransformer"] == unloaded, "the second to learn of it")
            third = start_gateway("gateway-3")
            with triton_grpc.InferenceServerClient(third.address) as third_client:
                assert states(third_client)["fastertransformer"] == unloaded
                third_client.load_model("fastertransformer")
                for client in (first_client, second_client):
                    await_true(lambda: states(client)["fastertransformer"] == ("READY", ""), "all to learn of it")
                    assert infer(client) == before


def test_a_replica_that_was_away_is_told_when_it_comes_back():
    with Cluster(replicas=2, gateway_flags=[*EXPLICIT, "--triton_load_models=*"]) as cluster, \
            triton_grpc.InferenceServerClient(cluster.gateway.address) as client:
        before = infer(client)
        cluster.workers[1][0].end()
        cluster.await_replicas(1)
        client.unload_model("fastertransformer")
        assert states(client)["fastertransformer"] == ("UNAVAILABLE", "unloaded")
        worker = cluster.restart_worker(1, 0)  # loads at its start, as it was
        await_true(lambda: "unload wanted" in worker.log and replica_states(cluster) == ["unloaded"] * 2,
                   "the second replica to unload")
        client.load_model("fastertransformer")
        cluster.await_replicas(2)
        assert infer(client) == before


def test_without_models_to_load_explicit_control_starts_unloaded():
    with Cluster(worker_flags=START_UNLOADED, gateway_flags=EXPLICIT, loaded=False) as cluster, \
            triton_grpc.InferenceServerClient(cluster.gateway.address) as client:
        assert client.is_server_ready()
        assert all(state == ("UNAVAILABLE", "unloaded") for state in states(client).values())
        with failing_with(grpc.StatusCode.UNAVAILABLE, "model 'demo' is not loaded"):
            cluster.generate(PROMPT)
        assert "loading" not in cluster.workers[0][0].log
        client.load_model("ensemble")
        assert infer(client)
