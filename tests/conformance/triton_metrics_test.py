"""Every series of Triton's metrics: its name, labels and type, and that it moves as the requests say."""

import pytest
import tritonclient.grpc as triton_grpc

from helpers.cluster import PROGRAMS, await_true
from helpers.triton import MODELS, Stream, ensemble_inputs, failing, transformer_inputs
from helpers.triton_http import ask

PROMPT = "Once upon a time"
FAKE_NVML = PROGRAMS.parent / "tests" / "libfake_nvml.so"
label = lambda model: f'{{model="{model}",version="1"}}'


def page_of(gateway, path="/metrics"):
    status, headers, text = ask(f"127.0.0.1:{gateway.ports['metrics']}", "GET", path)
    assert (status, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    return text.decode()


@pytest.fixture(scope="module")
def gateway(triton_cluster, tmp_path_factory):
    """A second gateway of the cluster, which nobody else uses, on a host with two GPUs; latencies on."""
    assert FAKE_NVML.exists()
    libraries = tmp_path_factory.mktemp("libraries")
    (libraries / "libnvidia-ml.so.1").symlink_to(FAKE_NVML)
    process = triton_cluster.launch(
        "gateway-metrics", "env", f"LD_LIBRARY_PATH={libraries}", PROGRAMS / "caravan_gateway",
        f"--replicas={triton_cluster.workers[0][0].address}", f"--tokenizers={triton_cluster.tokenizer.address}",
        "--triton_latency_metrics")
    yield process.await_ports().await_serving()
    process.end()


@pytest.fixture(scope="module")
def rise(gateway):
    """What three rows in one request, one that fails and one stream have changed: {series: (before, after)}."""
    before = gateway.metrics()
    with triton_grpc.InferenceServerClient(gateway.address) as client:
        client.infer("ensemble", ensemble_inputs([PROMPT] * 3, 5))
        with failing("INVALID_ARGUMENT"):
            client.infer("fastertransformer", transformer_inputs([[1, 4_000_000]], 5))
    with Stream(gateway.address) as stream:
        stream.send("ensemble", ensemble_inputs([PROMPT], 12))
        stream.collect()
    after = gateway.metrics()
    return {name: (before.get(name, 0.0), after[name]) for name in after}


def grown(rise, name):
    return rise[name][1] - rise[name][0]


# By how much the two good requests, of four rows, raise a counter of each model; None: by something.
COUNTERS = {"nv_inference_request_success": 2, "nv_inference_count": 4, "nv_inference_exec_count": 2,
            "nv_inference_request_duration_us": None, "nv_inference_queue_duration_us": 0,
            "nv_inference_compute_input_duration_us": None, "nv_inference_compute_infer_duration_us": None,
            "nv_inference_compute_output_duration_us": None}


@pytest.mark.parametrize("series", COUNTERS)
def test_counter_of_a_model(gateway, rise, series):
    assert f"# TYPE {series} counter\n" in page_of(gateway)
    for model in MODELS:
        if COUNTERS[series] is None:
            assert grown(rise, series + label(model)) >= 0
        elif COUNTERS[series]:
            assert grown(rise, series + label(model)) == COUNTERS[series]
    if COUNTERS[series] is None:
        assert grown(rise, series + label("ensemble")) > 0


@pytest.mark.parametrize("reason", ["REJECTED", "CANCELED", "BACKEND", "OTHER"])
def test_counter_of_failures_nv_inference_request_failure(gateway, rise, reason):
    series = f'nv_inference_request_failure{{model="fastertransformer",version="1",reason="{reason}"}}'
    assert grown(rise, series) == (reason == "OTHER")
    assert "# TYPE nv_inference_request_failure counter\n" in page_of(gateway)


def test_gauge_nv_inference_pending_request_count(gateway):
    series = "nv_inference_pending_request_count" + label("ensemble")
    assert gateway.metrics()[series] == 0
    with Stream(gateway.address) as stream:
        stream.send("ensemble", ensemble_inputs([PROMPT] * 2, 1500, end_id=1))
        stream.next()
        assert "# TYPE nv_inference_pending_request_count gauge\n" in page_of(gateway)
        stream.client.stop_stream(cancel_requests=True)
    await_true(lambda: gateway.metrics()[series] == 0, "the request to be gone")


SUMMARIES = [f"nv_inference_{part}_summary_us" for part in (
    "request", "queue", "compute_input", "compute_infer", "compute_output")]


@pytest.mark.parametrize("series", SUMMARIES)
def test_summary(gateway, triton_cluster, rise, series):
    assert f"# TYPE {series} summary\n" in page_of(gateway)
    for model in MODELS:
        assert grown(rise, f"{series}_count{label(model)}") == 2 and f"{series}_sum{label(model)}" in rise
        for quantile in ("0.5", "0.9", "0.95", "0.99", "0.999"):
            assert any(name.startswith(f'{series}{{model="{model}",version="1",quantile="{quantile}') for name in rise)
    assert series not in page_of(triton_cluster.gateway), "opt-in"


def test_histogram_nv_inference_first_response_histogram_ms(gateway, triton_cluster, rise):
    series = "nv_inference_first_response_histogram_ms"
    assert f"# TYPE {series} histogram\n" in page_of(gateway)
    for bound in ("100", "500", "2000", "5000", "+Inf"):
        assert f'{series}_bucket{{model="ensemble",version="1",le="{bound}"}}' in rise
    assert grown(rise, f"{series}_count{label('ensemble')}") == 2
    assert f"{series}_count{label('preprocessing')}" not in rise, "of decoupled models alone"
    assert series not in page_of(triton_cluster.gateway), "opt-in"


GPU = {"nv_gpu_utilization": 0.25, "nv_gpu_memory_total_bytes": 1000, "nv_gpu_memory_used_bytes": 600,
       "nv_gpu_power_usage": 1.5, "nv_gpu_power_limit": 3, "nv_energy_consumption": None}


@pytest.mark.parametrize("series", GPU)
def test_series_of_a_gpu(gateway, series):
    values = gateway.metrics()
    value = values[f'{series}{{gpu_uuid="GPU-one"}}']
    assert value == GPU[series] if GPU[series] is not None else value > 0
    kind = "counter" if series == "nv_energy_consumption" else "gauge"
    assert f"# TYPE {series} {kind}\n" in page_of(gateway)
    # What a GPU can't tell is left out: the second knows no power.
    assert (f'{series}{{gpu_uuid="GPU-two"}}' in values) == ("power" not in series and "energy" not in series)


@pytest.mark.parametrize("series", ["nv_cpu_utilization", "nv_cpu_memory_total_bytes", "nv_cpu_memory_used_bytes"])
def test_series_of_the_host(gateway, series):
    value = gateway.metrics()[series]
    assert 0 <= value <= 1 if series == "nv_cpu_utilization" else value > 1 << 20
    assert f"# TYPE {series} gauge\n" in page_of(gateway)


@pytest.mark.parametrize("series", [
    "nv_cache_num_hits_per_model", "nv_cache_num_misses_per_model", "nv_cache_hit_duration_per_model",
    "nv_cache_miss_duration_per_model", "nv_cache_hit_summary_per_model", "nv_cache_miss_summary_per_model",
    "nv_pinned_memory_pool_total_bytes", "nv_pinned_memory_pool_used_bytes", "nv_model_load_duration_secs"])
def test_series_that_has_no_meaning_here(gateway, series):
    assert series not in page_of(gateway)


def test_the_page_of_metrics(gateway):
    """/metrics and /metrics/; Caravan's own series are there too; a model without a GPU has no gpu_uuid."""
    for path in ("/metrics", "/metrics/"):
        page = page_of(gateway, path)
        assert "caravan_gateway_" in page and 'model="ensemble",version="1"}' in page
        assert not any("gpu_uuid" in line for line in page.splitlines() if line.startswith("nv_inference"))

