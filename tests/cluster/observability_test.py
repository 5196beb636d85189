"""Health, reflection, metrics and request ids on every service."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from helpers.cluster import DEVICE, pb, request

SERVICES = {
    "gateway": "caravan.v1.Generation",
    "tokenizer": "caravan.v1.Tokenizer",
    "leader": "caravan.v1.Worker",
}


def processes(cluster):
    return {"gateway": cluster.gateway, "tokenizer": cluster.tokenizer, "leader": cluster.workers[0][0]}


@pytest.mark.parametrize("name", SERVICES)
def test_health_says_serving_for_the_server_and_its_service(name, demo_cluster):
    stub = health_pb2_grpc.HealthStub(demo_cluster.connect(processes(demo_cluster)[name].address))
    for service in ("", SERVICES[name]):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("name", SERVICES)
def test_health_does_not_know_other_services(name, demo_cluster):
    stub = health_pb2_grpc.HealthStub(demo_cluster.connect(processes(demo_cluster)[name].address))
    with pytest.raises(grpc.RpcError) as error:
        stub.Check(health_pb2.HealthCheckRequest(service="no.Such"), timeout=10)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("name", SERVICES)
def test_reflection_lists_the_service_and_its_fields(name, demo_cluster):
    database = ProtoReflectionDescriptorDatabase(demo_cluster.connect(processes(demo_cluster)[name].address))
    assert SERVICES[name] in database.get_services()
    assert database.FindFileContainingSymbol(SERVICES[name]).service


@pytest.mark.parametrize("name", SERVICES)
def test_metrics_can_be_scraped(name, demo_cluster):
    demo_cluster.generate("Once upon a time")
    metrics = processes(demo_cluster)[name].metrics()
    assert any(key.startswith("caravan_") for key in metrics)
    assert any(value > 0 for value in metrics.values())


def test_followers_have_metrics_too(demo_cluster):
    assert any(key.startswith("caravan_") for key in demo_cluster.workers[0][1].metrics())


def test_the_request_id_and_the_trace_of_the_caller_are_in_every_services_log(demo_cluster):
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    list(demo_cluster.generation.Generate(request("Once upon a time"), timeout=60,
                                          metadata=[("x-request-id", "needle-4711"), ("traceparent", trace)]))
    for process in processes(demo_cluster).values():
        assert "needle-4711" in process.log, f"{process.name} does not log the request"
        # The gateway may be a span of its own within the trace.
        assert "4bf92f3577b34da6a3ce929d0e0e4736" in process.log, f"{process.name} does not log the trace"


def test_list_models_describes_replica_and_ranks(demo_cluster):
    models = demo_cluster.generation.ListModels(pb.ListModelsRequest(), timeout=10).models
    assert [model.name for model in models] == ["demo"]
    replica = models[0].replicas[0]
    assert (replica.tensor_parallel, replica.ready, replica.device) == (2, True, DEVICE)
    assert [rank.pid for rank in replica.ranks] == [worker.pid for worker in demo_cluster.workers[0]]
    assert all(rank.state == "ready" and rank.memory_bytes > 0 for rank in replica.ranks)
    for rank in replica.ranks:
        assert rank.device == "cpu" or rank.device.startswith("GPU ")
        assert (rank.device_total_bytes > 0) == (rank.device_memory_bytes > 0) == (DEVICE == "cuda")


def test_the_effective_configuration_is_logged(demo_cluster):
    assert "flag=tensor_parallel" in demo_cluster.workers[0][0].log
