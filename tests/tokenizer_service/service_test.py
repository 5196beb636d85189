"""The tokenizer service as a process: its calls, its limits, how it starts and stops."""

import json
import queue
import random
import signal
import socket
import subprocess
import threading
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from helpers.protos import load_protos
from model_folders import FOLDERS, make_folder
from tokenizer_process import PROGRAM

protos = load_protos().tokenizer


@pytest.fixture
def folder(tmp_path):
    return make_folder("new", tmp_path)


@pytest.fixture
def tokenizer(start_tokenizer, folder):
    return start_tokenizer(folder)


def encode(stub, *texts, **options):
    request = protos.EncodeRequest()
    for text in texts:
        request.inputs.add(text=text if isinstance(text, bytes) else text.encode(), **options)
    return [list(output.token_ids) for output in stub.Encode(request).outputs]


def decode(stub, *id_lists):
    request = protos.DecodeRequest()
    for ids in id_lists:
        request.inputs.add(token_ids=ids)
    return list(stub.Decode(request).texts)


def error_of(call):
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value.code(), error.value.details()


class Session:
    """A decode session that is written to and read from at will."""

    def __init__(self, stub):
        self.requests = queue.SimpleQueue()
        self.call = stub.DecodeSession(iter(self.requests.get, None))

    def send(self, **message):
        self.requests.put(protos.DecodeSessionRequest(**message))

    def open(self, sequence, context=(), keep=False):
        self.send(open=protos.DecodeOpen(sequence=sequence, context_token_ids=context, keep_special_tokens=keep))

    def append(self, sequence, ids):
        self.send(append=protos.DecodeAppend(sequence=sequence, token_ids=ids))
        return next(self.call)

    def close(self, sequence):
        self.send(close=protos.DecodeClose(sequence=sequence))
        return next(self.call)

    def half_close(self):
        self.requests.put(None)


def test_batches_are_answered_in_order(tokenizer):
    ids = encode(tokenizer.stub, "the river", "", "🦙 <s>", add_bos=True)
    assert [i[0] for i in ids] == [1, 1, 1] and ids[1] == [1] and ids[2].count(1) == 1
    assert decode(tokenizer.stub, *ids) == [b"the river", b"", "🦙 <s>".encode()]
    assert encode(tokenizer.stub) == []


def test_bad_input_is_named_and_the_next_call_works(start_tokenizer, folder):
    stub = start_tokenizer(folder, "--max_text_bytes=100", "--max_batch_inputs=3", "--max_decode_tokens=10").stub
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    assert error_of(lambda: encode(stub, "a", b"ok \xc3\x28")) == (
        invalid, "inputs[1].text: not UTF-8 at byte 3 (0xc3)")
    assert error_of(lambda: encode(stub, "a" * 101)) == (
        invalid, "inputs[0].text: 101 bytes of text, the limit is 100 (--max_text_bytes); send it in parts")
    assert error_of(lambda: encode(stub, *"abcd")) == (
        invalid, "inputs has 4 elements, the limit is 3 (--max_batch_inputs)")
    assert error_of(lambda: decode(stub, [5], [5, 1600])) == (
        invalid, "inputs[1].token_ids[1] is 1600, the vocabulary has ids from 0 to 1599")
    assert error_of(lambda: decode(stub, [5] * 6, [5] * 5)) == (
        invalid, "inputs has 11 token ids in all, the limit is 10 (--max_decode_tokens)")
    assert decode(stub, *encode(stub, "fine")) == [b"fine"]


def test_a_message_that_is_too_large_ends_only_its_own_call(start_tokenizer, folder):
    stub = start_tokenizer(folder, "--max_message_bytes=100000").stub
    session = Session(stub)
    session.open(1)
    assert error_of(lambda: encode(stub, "a" * 200000))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert session.append(1, encode(stub, "still here")[0]).text == b"still here"
    session.half_close()


def test_the_vocabulary_tells_what_a_gateway_needs(tokenizer, start_tokenizer, folder, tmp_path):
    vocabulary = tokenizer.stub.GetVocabulary(protos.GetVocabularyRequest(include_tokens=True))
    assert (vocabulary.max_text_bytes, vocabulary.max_batch_inputs, vocabulary.max_decode_tokens,
            vocabulary.max_message_bytes) == (4 << 20, 4096, 1 << 20, 16 << 20), "its flags' values"
    assert (vocabulary.size, vocabulary.bos_token_id, list(vocabulary.eos_token_ids)) == (1600, 1, [2])
    assert (vocabulary.unk_token_id, vocabulary.kind) == (0, "sentencepiece")
    assert (vocabulary.adds_bos, vocabulary.adds_eos) == (True, False)
    assert list(vocabulary.special_token_ids) == [0, 1, 2]
    assert len(vocabulary.tokens) == 1600 and vocabulary.tokens[3 + 0xF0] == b"\xf0" and b" the" in vocabulary.tokens
    again = start_tokenizer(folder).stub.GetVocabulary(protos.GetVocabularyRequest())
    other = start_tokenizer(make_folder("added_new", tmp_path)).stub.GetVocabulary(protos.GetVocabularyRequest())
    assert again.fingerprint == vocabulary.fingerprint != other.fingerprint
    assert not again.tokens and not again.word_token_ids


@pytest.mark.parametrize("name", ["new", "legacy", "no_prefix", "added_new", "old_style", "unknown_new"])
def test_the_vocabulary_tells_what_any_ids_decode_to(start_tokenizer, tmp_path, name):
    """Gateways put texts together from it: they must be those of Decode, to the byte."""
    stub = start_tokenizer(make_folder(name, tmp_path)).stub
    vocabulary = stub.GetVocabulary(protos.GetVocabularyRequest(include_tokens=True))
    special, words = set(vocabulary.special_token_ids), set(vocabulary.word_token_ids)
    draw = random.Random(name)
    request, expected = protos.DecodeRequest(), []
    frequent = [*special, *draw.sample(sorted(words), 5)] if words else [*special]
    for _ in range(2000):
        ids = [draw.choice(frequent) if draw.random() < 0.3 else draw.randrange(vocabulary.size)
               for _ in range(draw.randrange(12))]
        keep = draw.random() < 0.5
        request.inputs.add(token_ids=ids, keep_special_tokens=keep)
        shown = [i for i in ids if keep or i not in special]
        text = b"".join(vocabulary.tokens[i] for i in shown)
        expected.append(text[1:] if shown and shown[0] in words else text)
    assert list(stub.Decode(request).texts) == expected
    assert not words or any(text.startswith(b" ") for text in expected), "a second space stays"


def chat(stub, *turns, **options):
    request = protos.ApplyChatTemplateRequest(add_generation_prompt=True, **options)
    for role, content in turns:
        request.messages.add(role=role, content=content.encode())
    return stub.ApplyChatTemplate(request)


def with_chat_template(tmp_path, jinja):
    folder = make_folder("new", tmp_path)
    config = {**FOLDERS["new"][1]["tokenizer_config.json"], "chat_template": jinja}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_conversations_take_the_models_own_format(start_tokenizer, folder, tmp_path):
    plain = chat(start_tokenizer(folder).stub, ("user", "hi </s>"))
    assert plain.text == b"<s>User: hi </s>\nAssistant:" and b"\nUser:" in plain.stop_strings
    assert list(plain.token_ids).count(2) == 0
    stub = start_tokenizer(with_chat_template(tmp_path, "{{ '[INST] <<SYS>>' }}")).stub
    assert chat(stub, ("user", "hi")).text == b"<s>[INST] hi [/INST]"
    assert chat(stub, ("user", "hi"), format="plain").text == b"<s>User: hi\nAssistant:"
    assert error_of(lambda: chat(stub, ("user", "hi"), format="chatml"))[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert error_of(lambda: chat(stub, ("user", "hi"), format="llama3"))[0] == grpc.StatusCode.FAILED_PRECONDITION


def test_an_unknown_chat_template_asks_for_a_format(start_tokenizer, tmp_path):
    folder = with_chat_template(tmp_path, "{{ '<|im_start|>' }}")
    code, details = error_of(lambda: chat(start_tokenizer(folder).stub, ("user", "hi")))
    assert code == grpc.StatusCode.FAILED_PRECONDITION and "--chat_format" in details
    stub = start_tokenizer(folder, "--chat_format=llama2").stub
    assert chat(stub, ("user", "hi")).text == b"<s>[INST] hi [/INST]"


def test_a_session_goes_on_after_messages_that_are_refused(tokenizer):
    the = encode(tokenizer.stub, "the")[0]
    session = Session(tokenizer.stub)
    session.open(1, context=the)
    session.open(1)
    refused = next(session.call)
    assert (refused.sequence, refused.code) == (1, grpc.StatusCode.ALREADY_EXISTS.value[0])
    assert session.append(2, the).code == grpc.StatusCode.NOT_FOUND.value[0]
    assert session.append(1, [1600]).code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    session.send()
    assert next(session.call).code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    answer = session.append(1, the)
    assert (answer.code, answer.num_tokens, answer.text) == (0, 1, b" the")
    assert session.close(1).closed
    assert session.close(1).code == grpc.StatusCode.NOT_FOUND.value[0]
    session.half_close()
    assert list(session.call) == [] and session.call.code() == grpc.StatusCode.OK


def test_half_closing_still_brings_all_answers(tokenizer):
    the = encode(tokenizer.stub, "the")[0]
    session = Session(tokenizer.stub)
    session.open(1)
    for _ in range(5000):
        session.send(append=protos.DecodeAppend(sequence=1, token_ids=the))
    session.half_close()
    assert b"".join(answer.text for answer in session.call) == b"the" + b" the" * 4999


def test_a_client_that_reads_nothing_is_not_read_and_stops_nobody_else(start_tokenizer, folder):
    process = start_tokenizer(folder, "--max_session_queued_responses=16")
    ids = encode(process.stub, "the little caravan " * 500)[0]
    num_sent, begun = 0, threading.Event()

    def requests():
        nonlocal num_sent
        yield protos.DecodeSessionRequest(open=protos.DecodeOpen(sequence=1))
        for num_sent in range(1_000_000):
            begun.set()
            yield protos.DecodeSessionRequest(append=protos.DecodeAppend(sequence=1, token_ids=ids))

    call = process.stub.DecodeSession(requests())
    assert begun.wait(30)
    other = Session(process.stub)
    other.open(1)
    before = -1
    while before != num_sent:
        before = num_sent
        assert num_sent < 10_000, "the session that nobody reads is read on and on"
        for _ in range(300):
            assert other.append(1, ids[:3]).num_tokens == 3
    with open(f"/proc/{process.process.pid}/status") as status:
        resident_kib = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    assert resident_kib < 100_000
    call.cancel()
    assert other.close(1).closed
    other.half_close()


def test_long_texts_delay_no_short_ones(start_tokenizer, folder):
    stub = start_tokenizer(folder, "--long_request_threads=1").stub
    long = protos.EncodeRequest(inputs=[protos.EncodeInput(text=b"abcdefgh" * (1 << 17))])
    calls = [stub.Encode.future(long) for _ in range(16)]
    for _ in range(5):
        assert decode(stub, *encode(stub, "short")) == [b"short"]
    assert sum(call.done() for call in calls) < 8
    for call in calls[1:]:
        call.cancel()
    assert len(calls[0].result().outputs) == 1


def test_long_texts_beyond_those_that_may_wait_are_refused(start_tokenizer, folder):
    stub = start_tokenizer(folder, "--long_request_threads=1", "--max_waiting_long_requests=1").stub
    long = protos.EncodeRequest(inputs=[protos.EncodeInput(text=b"abcdefgh" * (1 << 17))])
    codes = [call.code().name for call in [stub.Encode.future(long) for _ in range(8)]]
    assert "OK" in codes and "RESOURCE_EXHAUSTED" in codes and set(codes) == {"OK", "RESOURCE_EXHAUSTED"}


def test_health_and_metrics_tell_what_goes_on(start_tokenizer, folder):
    process = start_tokenizer(folder, "--metrics_address=127.0.0.1:0")
    health = health_pb2_grpc.HealthStub(grpc.insecure_channel(f"127.0.0.1:{process.port}"))
    assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    session = Session(process.stub)
    session.open(1)
    session.append(1, encode(process.stub, "the")[0])
    with urllib.request.urlopen(f"http://127.0.0.1:{process.ports['metrics']}/metrics") as page:
        metrics = page.read().decode()
    assert 'caravan_tokenizer_requests_total{outcome="ok",rpc="Encode"} 1' in metrics
    assert "caravan_tokenizer_encoded_bytes_total 3" in metrics
    assert "caravan_tokenizer_decoded_tokens_total 1" in metrics
    assert "caravan_tokenizer_sequences 1" in metrics
    session.half_close()


def test_sigterm_lets_open_sequences_finish(tokenizer):
    the = encode(tokenizer.stub, "the")[0]
    idle, busy = Session(tokenizer.stub), Session(tokenizer.stub)
    for session in (idle, busy):
        session.open(1)
        session.append(1, the)
    idle.close(1)
    tokenizer.process.send_signal(signal.SIGTERM)
    code, details = error_of(lambda: next(idle.call))
    assert (code, details) == (grpc.StatusCode.UNAVAILABLE, "the tokenizer is stopping")
    assert busy.append(1, the).text == b" the"
    assert busy.close(1).closed
    assert error_of(lambda: next(busy.call))[0] == grpc.StatusCode.UNAVAILABLE
    assert tokenizer.process.wait(20) == 0
    assert "stopped" in tokenizer.log.read_text()


# A Python client without a call reads nothing, and gRPC waited 20 s for it to answer a ping.
def test_clients_without_a_call_do_not_delay_the_end(tokenizer):
    encode(tokenizer.stub, "the")
    watching = health_pb2_grpc.HealthStub(grpc.insecure_channel(f"127.0.0.1:{tokenizer.port}")).Watch(
        health_pb2.HealthCheckRequest())
    assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
    tokenizer.process.send_signal(signal.SIGTERM)
    assert next(watching).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert tokenizer.process.wait(10) == 0


def test_sequences_that_never_close_delay_the_end_by_the_drain_timeout(start_tokenizer, folder):
    process = start_tokenizer(folder, "--drain_timeout_ms=200")
    session = Session(process.stub)
    session.open(1)
    session.append(1, [5])
    process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(20) == 0
    assert error_of(lambda: next(session.call))[0] in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def run(*flags):
    result = subprocess.run([str(PROGRAM), *flags], capture_output=True, text=True, timeout=30)
    return result.returncode, result.stderr


def test_a_start_that_fails_says_why(folder, tmp_path):
    address = "--listen_address=127.0.0.1:0"
    assert run()[0] == 2 and "--model is missing" in run()[1]
    code, log = run("--model=/nowhere", address)
    assert code == 1 and "model folder /nowhere does not exist" in log
    code, log = run(f"--model={folder}", "--listen_address=nonsense")
    assert code == 2 and "--listen_address is 'nonsense'" in log
    code, log = run(f"--model={folder}", "--max_text_bytes=0")
    assert code == 2 and "--max_text_bytes is 0; it must be at least 1" in log
    code, log = run(f"--model={folder}", "--chat_format=chatml")
    assert code == 2 and "chatml" in log
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, log = run(f"--model={folder}", f"--listen_address=127.0.0.1:{taken.getsockname()[1]}")
    assert code == 1 and "port is in use" in log
    (tmp_path / "llama3").mkdir()
    (tmp_path / "llama3" / "tokenizer.json").write_text("{}")
    code, log = run(f"--model={tmp_path / 'llama3'}", address)
    assert code == 1 and "LLaMA 3" in log and "UNIMPLEMENTED" in log
