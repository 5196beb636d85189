"""Triton's clients and tensors for tests: thin helpers over the official tritonclient."""

import queue

import numpy as np
import tritonclient.grpc as triton_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

MODELS = ("ensemble", "fastertransformer", "postprocessing", "preprocessing")


def tensor(name, values, dtype):
    """An InferInput with its data, of a NumPy dtype or of "BYTES"."""
    array = np.array(values, dtype=object if dtype == "BYTES" else dtype)
    datatype = "BYTES" if dtype == "BYTES" else np_to_triton_dtype(array.dtype)
    made = triton_grpc.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def column(name, values, dtype):
    """[B] values as the [B, 1] of the wire."""
    return tensor(name, [[value] for value in values], dtype)


SCALARS = {
    "runtime_top_k": np.uint32, "runtime_top_p": np.float32, "beam_search_diversity_rate": np.float32,
    "temperature": np.float32, "len_penalty": np.float32, "repetition_penalty": np.float32, "random_seed": np.uint64,
    "is_return_log_probs": bool, "beam_width": np.uint32, "start_id": np.uint32, "end_id": np.uint32,
    "prompt_learning_task_name_ids": np.uint32, "top_p_decay": np.float32, "top_p_min": np.float32,
    "top_p_reset_ids": np.uint32, "min_length": np.uint32, "presence_penalty": np.float32,
    "frequency_penalty": np.float32, "exclude_input_in_output": bool,
}


def scalar_inputs(rows, parameters):
    """One value for all rows, or a list with one a row."""
    inputs = []
    for name, value in parameters.items():
        values = value if isinstance(value, list) else [value] * rows
        inputs.append(column(name, values, SCALARS[name]))
    return inputs


def ensemble_inputs(prompts, output_len=8, bad_words="", stop_words="", **parameters):
    rows = len(prompts)
    spread = lambda value: value if isinstance(value, list) else [value] * rows
    encode = lambda texts: [text.encode() if isinstance(text, str) else text for text in texts]
    return [column("INPUT_0", encode(prompts), "BYTES"), column("INPUT_1", spread(output_len), np.uint32),
            column("INPUT_2", encode(spread(bad_words)), "BYTES"),
            column("INPUT_3", encode(spread(stop_words)), "BYTES"), *scalar_inputs(rows, parameters)]


def transformer_inputs(prompts, output_len=8, **parameters):
    """`prompts` are lists of token ids, padded here on the right."""
    rows = len(prompts)
    width = max(len(prompt) for prompt in prompts)
    lists = [tensor(name, parameters.pop(name), np.int32) for name in ("bad_words_list", "stop_words_list")
             if name in parameters]
    lengths = output_len if isinstance(output_len, list) else [output_len] * rows
    return [tensor("input_ids", [[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], np.uint32),
            column("input_lengths", [len(prompt) for prompt in prompts], np.uint32),
            column("request_output_len", lengths, np.uint32), *lists, *scalar_inputs(rows, parameters)]


def outputs_of(result):
    """All output tensors of an InferResult by name."""
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def parameter(response, name):
    value = response.parameters[name]
    return getattr(value, value.WhichOneof("parameter_choice"))


def is_final(result):
    return parameter(result.get_response(), "triton_final_response")


class Stream:
    """ModelStreamInfer by the official client's callbacks."""

    def __init__(self, address):
        self.client = triton_grpc.InferenceServerClient(address)
        self.answers = queue.Queue()
        self.client.start_stream(lambda result, error: self.answers.put((result, error)))

    def send(self, model, inputs, request_id="", **options):
        self.client.async_stream_infer(model, inputs, request_id=request_id, **options)

    def next(self):
        return self.answers.get(timeout=60)

    def collect(self, requests=1):
        """Results until so many requests have had their final one."""
        results = []
        while requests > 0:
            result, error = self.next()
            assert error is None, error
            results.append(result)
            requests -= is_final(result)
        return results

    def close(self):
        self.client.stop_stream()
        self.client.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class failing:
    """The block must end in tritonclient's exception with this status and these words."""

    def __init__(self, status, *words):
        self.status, self.words = status, words

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        assert kind is not None, f"no error; expected {self.status}"
        if not issubclass(kind, InferenceServerException):
            return False
        assert error.status() == f"StatusCode.{self.status}", f"{error.status()}: {error.message()}"
        for word in self.words:
            assert word in error.message(), f"{error.message()!r} does not say {word!r}"
        return True
