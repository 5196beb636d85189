"""The caravan program against real clusters."""

import json
import os
import pathlib
import pty
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import urllib.request

import grpc
import pytest

from helpers.cluster import DEMO_MODEL, PROGRAMS, STOP_LIMIT_S, await_true, pb, protos, request

CARAVAN = PROGRAMS / "caravan"
PROMPT = "Once upon a time"
LIMIT = pytest.mark.timeout(180)


def run(*arguments, state=None, stdin=None, limit_s=60):
    environment = dict(os.environ, CARAVAN_STATE_FILE=str(state or "/nonexistent/state"))
    return subprocess.run([str(CARAVAN), *map(str, arguments)], input=stdin, capture_output=True, text=True,
                          errors="surrogateescape", timeout=limit_s, env=environment, check=False)


class Up:
    """`caravan up` on the bundled model, found by a state file of its own."""

    def __init__(self, folder, *flags):
        self.state_file = folder / "state.json"
        self.log_path = folder / "up.log"
        with self.log_path.open("wb") as log:
            self.popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", str(CARAVAN), "up", f"--model={DEMO_MODEL}", "--gateway_port=0",
                 "--http_port=0", "--metrics_port=0", *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=dict(os.environ, CARAVAN_STATE_FILE=str(self.state_file)))
        await_true(lambda: self.popen.poll() is not None or self.state_file.exists(), "the state file")
        assert self.popen.poll() is None, self.log
        self.state = json.loads(self.state_file.read_text())
        self.channel = grpc.insecure_channel(self.state["gateway"], options=[("grpc.use_local_subchannel_pool", 1)])
        self.generation = protos.generation_grpc.GenerationStub(self.channel)

    @property
    def log(self):
        return self.log_path.read_text()

    def ranks(self):
        """Over a connection of its own: the gateway may have been restarted."""
        with grpc.insecure_channel(self.state["gateway"], options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            models = protos.generation_grpc.GenerationStub(channel).ListModels(
                pb.ListModelsRequest(), timeout=30, wait_for_ready=True).models
        return {rank.rank: rank.pid for rank in models[0].replicas[0].ranks if rank.state == "ready"}

    def requests_finished(self):
        with urllib.request.urlopen(f"http://{self.state['gateway_metrics']}/metrics", timeout=30) as answer:
            return sum(float(line.split()[-1]) for line in answer.read().decode().splitlines()
                       if line.startswith("caravan_gateway_requests_finished_total"))

    def children(self):
        return [int(pid) for pid in pathlib.Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text()
                .split()]

    def end(self):
        self.channel.close()
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    up = Up(tmp_path_factory.mktemp("up"), "--tensor_parallel=2")
    yield up
    up.end()


def generate_json(up, *arguments, stdin=None):
    result = run("generate", "--json", *arguments, state=up.state_file, stdin=stdin)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def gone(pids):
    return not any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids)


@LIMIT
def test_demo_tells_a_story_shows_what_ran_and_stops():
    result = run("demo", limit_s=120)
    assert result.returncode == 0, result.stderr
    assert PROMPT in result.stdout
    assert re.search(r"\d+ tokens at [\d.]+ tokens/s, the first after \d+ ms", result.stdout)
    pids = [int(pid) for pid in re.findall(r"^(?:gateway|tokenizer|worker \d) +(\d+) ", result.stdout, re.MULTILINE)]
    assert len(pids) == 4
    assert gone(pids)


@LIMIT
def test_up_gives_each_worker_the_gpu_it_names(tmp_path):
    """Without a GPU the workers compute on the CPU, whatever --gpu says; with one they share it."""
    up = Up(tmp_path, "--tensor_parallel=2", "--gpus=0,0", "--kv_cache_bytes=4000000")
    try:
        workers = {}
        for pid in up.ranks().values():
            command = pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            variables = pathlib.Path(f"/proc/{pid}/environ").read_text().split("\0")
            rank = next(word for word in command if word.startswith("--rank="))
            workers[rank] = "--gpu=0" in command, [v for v in variables if v.startswith("NCCL_HOSTID=")]
        assert workers == {"--rank=0": (True, ["NCCL_HOSTID=caravan-rank-0"]),
                           "--rank=1": (True, ["NCCL_HOSTID=caravan-rank-1"])}
        assert generate_json(up, "--max_tokens=5", PROMPT)["token_ids"]
    finally:
        up.end()


@LIMIT
def test_up_prints_addresses_and_lines_to_paste(up):
    assert up.state["gateway"] in up.log
    assert f"generate --address={up.state['gateway']}" in up.log
    assert "python3 -c" in up.log


@LIMIT
def test_up_serves_http_where_it_says(up):
    assert f"http://{up.state['gateway_http']}" in up.log
    with urllib.request.urlopen(f"http://{up.state['gateway_http']}/v2/health/ready", timeout=10) as answer:
        assert answer.status == 200


@LIMIT
def test_the_python_line_of_up_works_as_pasted(up, tmp_path):
    line = next(line for line in up.log.splitlines() if "python3 -c" in line)
    environment = dict(os.environ, PATH=f"{pathlib.Path(os.sys.executable).parent}:{os.environ['PATH']}")
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, env=environment,
                            cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.split()) > 10


@LIMIT
def test_generate_writes_the_text_and_nothing_else(up, golden_answers):
    answer = golden_answers[3]
    result = run("generate", "--temperature=0", f"--max_tokens={answer['max_tokens']}", answer["prompt"],
                 state=up.state_file)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == " " + answer["greedy_text"] + "\n"


@LIMIT
def test_generate_reads_standard_input_and_takes_an_address(up, golden_answers):
    answer = golden_answers[3]
    result = run("generate", "--temperature=0", f"--max_tokens={answer['max_tokens']}",
                 f"--address={up.state['gateway']}", stdin=answer["prompt"] + "\n")
    assert result.stdout == " " + answer["greedy_text"] + "\n"


@LIMIT
def test_generate_repeats_itself_by_the_seed_and_resumes(up):
    first = generate_json(up, "--seed=7", "--max_tokens=30", PROMPT)
    assert generate_json(up, "--seed=7", "--max_tokens=30", PROMPT)["token_ids"] == first["token_ids"]
    assert generate_json(up, "--seed=8", "--max_tokens=30", PROMPT)["token_ids"] != first["token_ids"]
    resumed = generate_json(up, "--seed=7", "--max_tokens=30", "--resume", ",".join(map(str, first["token_ids"][:10])),
                            PROMPT)
    assert resumed["token_ids"] == first["token_ids"][10:]


@LIMIT
def test_generate_stops_at_a_stop_string(up):
    whole = generate_json(up, "--temperature=0", "--max_tokens=40", PROMPT)["text"]
    word = whole.split()[5]
    stopped = generate_json(up, "--temperature=0", "--max_tokens=40", f"--stop={word}", PROMPT)
    assert stopped["finish_reason"] == "stop string"
    assert whole.startswith(stopped["text"]) and word not in stopped["text"]


@LIMIT
def test_generate_says_what_the_gateway_refuses(up):
    result = run("generate", "--top_p=2", PROMPT, state=up.state_file)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "top_p" in result.stderr and result.stderr.count("\n") == 1


@LIMIT
def test_ctrl_c_cancels_generate(up):
    with subprocess.Popen([str(CARAVAN), "generate", "--max_tokens=400", "--ignore_eos", PROMPT],
                          stdout=subprocess.PIPE, env=dict(os.environ, CARAVAN_STATE_FILE=str(up.state_file))) as child:
        assert child.stdout.read(1)
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=STOP_LIMIT_S) in (0, 130)  # 0 where it had finished already


@LIMIT
def test_chat_answers_each_line(up, golden_answers):
    result = run("chat", "--temperature=0", "--max_tokens=60", state=up.state_file, stdin="Hello!\nThank you!\n")
    assert result.returncode == 0, result.stderr
    first = next(answer for answer in golden_answers if answer["prompt"] == "[INST] Hello! [/INST]")
    lines = result.stdout.splitlines()
    assert lines[0] == " " + first["greedy_text"]
    assert len(lines) == 2 and lines[1]


@LIMIT
def test_chat_goes_on_after_an_answer_that_ctrl_c_has_stopped(up):
    with subprocess.Popen([str(CARAVAN), "chat", "--max_tokens=900", "--ignore_eos"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
                          env=dict(os.environ, CARAVAN_STATE_FILE=str(up.state_file))) as child:
        child.stdin.write(b"Tell me a story\n")
        assert child.stdout.read(1)
        child.send_signal(signal.SIGINT)
        output, error = child.communicate(b"Thank you!\n", timeout=STOP_LIMIT_S)
    assert child.returncode == 0, error.decode()
    assert output.count(b"\n") >= 2 and output.splitlines()[-1]


@LIMIT
def test_chat_on_a_terminal_goes_on_after_a_message_that_is_refused(up):
    """From a pipe it ends, so that a script sees the exit status."""
    terminal, other_end = pty.openpty()
    with subprocess.Popen([str(CARAVAN), "chat", "--max_tokens=8"], stdin=other_end, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=dict(os.environ, CARAVAN_STATE_FILE=str(up.state_file))) as child:
        os.close(other_end)
        os.write(terminal, b"\xff\nTell me a story\n/exit\n")
        output, error = child.communicate(timeout=STOP_LIMIT_S)
    os.close(terminal)
    assert child.returncode == 0, error.decode()
    assert b"UTF-8" in error and b"/reset starts anew)" in error, error.decode()
    assert output.strip(), "the next message was not answered"
    refused = run("chat", state=up.state_file, stdin="\udcff\nTell me a story\n")
    assert refused.returncode == 1 and "UTF-8" in refused.stderr


@LIMIT
@pytest.mark.parametrize("path,reason", [("/nonexistent/x.json", "can't make a file in /nonexistent/"),
                                         ("/", "/ is not a regular file")])
def test_bench_says_before_the_load_where_results_can_not_go(up, path, reason):
    result = run("bench", "--num_requests=1000000", f"--json={path}", state=up.state_file)
    assert result.returncode == 1 and f"--json: {reason}" in result.stderr, result.stderr


@LIMIT
def test_bench_writes_its_results_into_a_pipe_too(up):
    result = run("bench", "--num_requests=1", "--output_tokens=2", "--json=/dev/stdout", state=up.state_file)
    assert result.returncode == 0 and '"output_tokens_per_second"' in result.stdout, result.stderr


@LIMIT
def test_bench_reports_what_it_measured_before_ctrl_c(up):
    before = up.requests_finished()
    with subprocess.Popen([str(CARAVAN), "bench", "--num_requests=100000", "--warmup=0", "--concurrency=2",
                           "--prompt_tokens=4", "--output_tokens=200", "--json=-"], stdout=subprocess.PIPE,
                          env=dict(os.environ, CARAVAN_STATE_FILE=str(up.state_file))) as child:
        await_true(lambda: up.requests_finished() >= before + 3, "some requests")
        child.send_signal(signal.SIGINT)
        output, _ = child.communicate(timeout=STOP_LIMIT_S)
    assert child.returncode == 130
    report = json.loads(output)
    assert report["succeeded"] >= 1 and report["failed"] == 0 and 1 <= report["cancelled"] <= 2
    assert report["output_tokens"] >= 200 * report["succeeded"]


@LIMIT
def test_up_serves_on_an_ipv6_address(tmp_path):
    if not pathlib.Path("/proc/net/if_inet6").exists() or "lo" not in pathlib.Path("/proc/net/if_inet6").read_text():
        pytest.skip("this host has no IPv6")
    up = Up(tmp_path, "--host=[::1]")
    try:
        assert up.state["gateway"].startswith("[::1]:")
        assert run("generate", PROMPT, "--max_tokens=4", state=up.state_file).stdout.strip()
        with urllib.request.urlopen(f"http://{up.state['gateway_metrics']}/metrics", timeout=30) as answer:
            assert b"caravan_gateway" in answer.read()
    finally:
        up.end()


@LIMIT
def test_metrics_say_that_they_have_no_ipv6():
    result = subprocess.run([PROGRAMS / "caravan_tokenizer", f"--model={DEMO_MODEL}", "--listen_address=127.0.0.1:0",
                             "--metrics_address=[::1]:0"], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert "--metrics_address is [::1]:0; metrics are served over IPv4 alone" in result.stdout + result.stderr


@LIMIT
@pytest.mark.parametrize("flags,words", [(["--format=bogus"], ["format", "bogus"]),
                                         (["--tokenizer=127.0.0.1:{unused}"], ["no tokenizer answers", "--tokenizer"]),
                                         (["--tokenizer={gateway}"], ["{gateway} serves no tokenizer", "--tokenizer"]),
                                         (["--address=127.0.0.1:{unused}"], ["caravan up", "--address"])])
def test_chat_says_at_its_start_that_it_can_not_answer(up, flags, words):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        names = {"unused": unused.getsockname()[1], "gateway": up.state["gateway"]}
        result = run("chat", *[flag.format(**names) for flag in flags], state=up.state_file, stdin="")
    assert result.returncode == 1
    assert all(word.format(**names) in result.stderr for word in words), result.stderr
    assert result.stderr.count("\n") == 1


@LIMIT
@pytest.mark.parametrize("arguments", [["generate", PROMPT], ["generate", "--json", PROMPT], ["status"],
                                       ["status", "--json"], ["chat"], ["generate", "--help"], ["--help"], ["help"],
                                       ["bench", "--num_requests=2", "--output_tokens=2"]], ids=" ".join)
def test_a_full_standard_output_is_an_error(up, arguments):
    with open("/dev/full", "w") as full:
        result = subprocess.run([str(CARAVAN), *arguments], input="Hello!\nThank you!\n", stdout=full,
                                stderr=subprocess.PIPE, text=True, timeout=60, check=False,
                                env=dict(os.environ, CARAVAN_STATE_FILE=str(up.state_file)))
    assert result.returncode == 1
    assert result.stderr == f"caravan {arguments[0]}: can't write to standard output: No space left on device\n"


@LIMIT
@pytest.mark.parametrize("command", ["status", "bench --num_requests=1", f"generate '{PROMPT}'"])
def test_what_is_no_gateway_is_told(up, command):
    result = run(*shlex.split(command), f"--address={up.state['tokenizer']}")
    assert result.returncode == 1
    assert "what answers there is no gateway; --address takes" in result.stderr and result.stderr.count("\n") == 1


# Without standard output the next connection had its number, and the text went there.
@LIMIT
@pytest.mark.parametrize("command", ["--help", "up --help", "status", "status --json", f"generate '{PROMPT}'"])
def test_a_closed_standard_output_is_an_error(up, command):
    result = subprocess.run(["bash", "-c", f"'{CARAVAN}' {command} >&-"], stdin=subprocess.DEVNULL, capture_output=True,
                            text=True, timeout=60, check=False,
                            env=dict(os.environ, CARAVAN_STATE_FILE=str(up.state_file)))
    assert result.returncode == 1
    assert result.stderr == f"caravan {command.split()[0]}: can't write to standard output: it is closed\n"


@LIMIT
@pytest.mark.parametrize("command", ["chat", "generate"])
@pytest.mark.parametrize("stdin,reason", [("</", "Is a directory"), ("<&-", "it is closed")])
def test_a_standard_input_that_can_not_be_read_is_an_error(up, command, stdin, reason):
    result = subprocess.run(["bash", "-c", f"'{CARAVAN}' {command} {stdin}"], stdin=subprocess.DEVNULL,
                            capture_output=True, text=True, timeout=60, check=False,
                            env=dict(os.environ, CARAVAN_STATE_FILE=str(up.state_file)))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"caravan {command}: can't read standard input: {reason}\n"


@LIMIT
def test_a_reader_that_goes_away_hears_nothing(up):
    with subprocess.Popen([str(CARAVAN), "generate", "--max_tokens=400", "--ignore_eos", PROMPT],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=dict(os.environ, CARAVAN_STATE_FILE=str(up.state_file))) as child:
        assert child.stdout.read(1)
        child.stdout.close()
        assert child.wait(timeout=STOP_LIMIT_S) in (0, 130)  # 0 where it had finished already
        assert child.stderr.read() == b""


@LIMIT
def test_status_shows_replica_and_ranks(up):
    result = run("status", state=up.state_file)
    assert result.returncode == 0, result.stderr
    for pid in up.ranks().values():
        assert str(pid) in result.stdout
    assert "ready" in result.stdout and "KV TOKENS" in result.stdout
    assert json.loads(run("status", "--json", state=up.state_file).stdout)["models"][0]["name"] == "demo"


@LIMIT
@pytest.mark.parametrize("pace", ["--concurrency=4", "--rate=50"])
def test_bench_measures_and_writes_json(up, pace, tmp_path):
    result = run("bench", pace, "--num_requests=12", "--prompt_tokens=4:16", "--output_tokens=8",
                 f"--json={tmp_path / 'bench.json'}", state=up.state_file)
    assert result.returncode == 0, result.stderr
    assert "time to first token" in result.stdout
    report = json.loads((tmp_path / "bench.json").read_text())
    assert (report["succeeded"], report["failed"], report["output_tokens"]) == (12, 0, 96)
    assert 0 < report["time_to_first_token_ms"]["p50"] <= report["time_to_first_token_ms"]["p99"]
    assert report["inter_token_ms"]["p50"] <= report["end_to_end_ms"]["p50"]


@LIMIT
@pytest.mark.parametrize("victim", ["leader", "follower", "gateway", "tokenizer"])
def test_up_restarts_what_is_killed_and_serves_again(up, victim):
    before = generate_json(up, "--temperature=0", "--max_tokens=20", PROMPT)["token_ids"]
    names = {pathlib.Path(f"/proc/{pid}/comm").read_text().strip(): pid for pid in up.children()}
    ranks = up.ranks()
    pid = {"leader": ranks[0], "follower": ranks[1], "gateway": names["caravan_gateway"],
           "tokenizer": names["caravan_tokeniz"]}[victim]
    os.kill(pid, signal.SIGKILL)
    await_true(lambda: gone([pid]) and len(up.children()) == 4, "the restart")

    def serves():
        result = run("generate", "--json", "--temperature=0", "--max_tokens=20", PROMPT, state=up.state_file)
        return result.returncode == 0 and json.loads(result.stdout)["token_ids"] == before

    await_true(serves, f"an answer after the {victim} was killed")
    assert pid not in up.children()


@LIMIT
def test_sigterm_finishes_requests_and_leaves_no_process(tmp_path):
    up = Up(tmp_path, "--tensor_parallel=2")
    try:
        children = up.children()
        call = up.generation.Generate(request(PROMPT, max_tokens=300, stopping={"ignore_eos": True}), timeout=60)
        events = iter(call)
        next(events)
        up.popen.send_signal(signal.SIGTERM)
        tokens = sum(event.tokens.num_tokens for event in events)
        assert tokens == 300
        assert up.popen.wait(timeout=60) == 0
        assert len(children) == 4 and gone(children)
        assert not up.state_file.exists()
    finally:
        up.end()


@LIMIT
def test_a_second_up_leaves_the_first_where_the_commands_find_it(up, tmp_path):
    log_path = tmp_path / "second.log"
    with log_path.open("wb") as log, subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", str(CARAVAN), "up", f"--model={DEMO_MODEL}", "--gateway_port=0",
             "--http_port=0", "--metrics_port=0"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env=dict(os.environ, CARAVAN_STATE_FILE=str(up.state_file))) as second:
        await_true(lambda: "another cluster" in log_path.read_text() or second.poll() is not None, "the second's note")
        assert f"process {up.popen.pid}" in log_path.read_text()
        second.send_signal(signal.SIGTERM)
        assert second.wait(timeout=60) == 0
    assert json.loads(up.state_file.read_text()) == up.state


@LIMIT
def test_no_process_outlives_a_killed_up(tmp_path):
    up = Up(tmp_path, "--tensor_parallel=2")
    try:
        children = up.children()
        up.popen.kill()
        up.popen.wait()
        await_true(lambda: gone(children), "the children to be gone", STOP_LIMIT_S)
    finally:
        up.end()


@pytest.mark.parametrize("flag", ["--gateway_port", "--http_port", "--metrics_port"])
def test_a_port_in_use_is_named_at_once(flag):
    others = [other for other in ("--gateway_port=0", "--http_port=0", "--metrics_port=0") if flag not in other]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = run("up", f"--model={DEMO_MODEL}", *others, f"{flag}={port}")
    assert result.returncode == 1
    assert f"port {port}" in result.stderr and flag in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("flags,words", [
    (["--gateway_port={free}", "--http_port={free}", "--metrics_port=0"], ["--http_port", "--gateway_port"]),
    (["--gateway_port=0", "--http_port=0", "--metrics_port=0", "--host=192.0.2.1"], ["--host", "192.0.2.1"])])
def test_up_names_its_own_flags_where_it_can_not_listen(flags, words):
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    result = run("up", f"--model={DEMO_MODEL}", *[flag.format(free=free) for flag in flags])
    assert result.returncode == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert "_address" not in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("program,flag", [("caravan_gateway", "--replicas=127.0.0.1:1 --tokenizers=127.0.0.1:1"),
                                          ("caravan_tokenizer", f"--model={DEMO_MODEL}"),
                                          ("caravan_worker", f"--model={DEMO_MODEL}")])
def test_each_service_names_a_port_in_use(program, flag):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = subprocess.run([str(PROGRAMS / program), f"--listen_address=127.0.0.1:{port}", *flag.split()],
                                capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert f"127.0.0.1:{port}" in result.stderr


@pytest.mark.parametrize("command", ["up", "demo", "generate", "chat", "status", "bench"])
def test_each_command_explains_itself(command):
    result = run(command, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"caravan {command}")


@pytest.mark.parametrize("arguments", [["nonsense"], ["up", "--model=x", "--tensor_parallel=0"], ["status", "x"],
                                       ["bench", "--prompt_tokens=9:1"], ["generate", "--max_tokens=0", "x"],
                                       ["status", "--address=localhost:99999"], ["bench", "--address=http://x:8001"],
                                       ["generate", "--address=localhost", "x"],
                                       ["chat", "--address=localhost:1", "--tokenizer=::1:8002"]])
def test_wrong_usage_is_two_and_a_sentence(arguments):
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stderr and result.stdout == ""


@pytest.mark.parametrize("command", [["generate", "x"], ["status"], ["bench"]])
def test_where_nothing_answers_a_sentence_says_so(command):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = run(*command, f"--address=127.0.0.1:{unused.getsockname()[1]}")
    assert result.returncode == 1
    assert "caravan up" in result.stderr and result.stderr.count("\n") == 1


@LIMIT
@pytest.mark.parametrize("flag", ["--triton_model_control_mode=explicit",
                                  "--gateway_flags=--triton_model_control_mode=explicit"])
def test_up_with_explicit_control_starts_without_the_model_and_shows_what_is_unloaded(flag, tmp_path):
    up = Up(tmp_path, flag)
    try:
        assert "Up, without a model until a client loads demo" in up.log and "Serving" not in up.log
        status = run("status", state=up.state_file)
        assert status.returncode == 0 and "  unloaded  " in status.stdout, status.stdout + status.stderr
        refused = run("generate", PROMPT, state=up.state_file)
        assert refused.returncode == 1 and "model 'demo' is not loaded: unloaded" in refused.stderr
        load = urllib.request.Request(f"http://{up.state['gateway_http']}/v2/repository/models/ensemble/load", data=b"")
        urllib.request.urlopen(load, timeout=60).close()
        assert generate_json(up, "--max_tokens=4", PROMPT)["token_ids"]
        assert "  ready  " in run("status", state=up.state_file).stdout
    finally:
        up.end()


@LIMIT
def test_up_goes_on_where_a_file_of_the_gateway_has_explicit_control(tmp_path):
    """Up can't know of it, and starts workers that load: the gateway has them unload."""
    file = tmp_path / "gateway.flags"
    file.write_text("--triton_model_control_mode=explicit\n")
    up = Up(tmp_path, f"--gateway_flags=--flagfile={file}")
    try:
        await_true(lambda: "  unloaded  " in run("status", state=up.state_file).stdout, "the model to be unloaded")
    finally:
        up.end()


@pytest.mark.parametrize("flags,words", [
    (["--triton_load_models=*"], "it takes --triton_model_control_mode=explicit"),
    (["--triton_model_control_mode=explicit", "--triton_load_models=ensemble,nope"],
     "--triton_load_models names 'nope', which is not served; ensemble, fastertransformer, postprocessing, "
     "preprocessing and * are"),
    (["--triton_model_control_mode=poll"], "--triton_model_control_mode is 'poll'; it must be none or explicit")])
def test_up_refuses_models_to_load_that_it_would_not_load(flags, words):
    result = run("up", f"--model={DEMO_MODEL}", *flags)
    assert result.returncode == 2 and words in result.stderr, result.stderr


@LIMIT
def test_up_says_why_the_model_can_not_be_loaded_under_explicit_control(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, folder)
    (folder / "model.safetensors").write_bytes(b"no checkpoint")
    result = run("up", f"--model={folder}", "--triton_model_control_mode=explicit", "--triton_load_models=*",
                 "--gateway_port=0", "--http_port=0", "--metrics_port=0")
    assert result.returncode == 1 and "model.safetensors" in result.stderr.splitlines()[-1], result.stderr
