"""Every tensor of the four models: as it is described, as it is checked, what it means where it is left out."""

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from conformance.triton_tables_test import INPUTS, OUTPUTS
from helpers.triton import (SCALARS, Stream, column, ensemble_inputs, failing, outputs_of, tensor,
                            transformer_inputs)

PROMPT = "Once upon a time"
DTYPES = {"BYTES": "BYTES", "UINT32": np.uint32, "INT32": np.int32, "FP32": np.float32, "UINT64": np.uint64, "BOOL": bool}
ROWS = [(model, *row) for model, rows in INPUTS.items() for row in rows]
OUTPUT_ROWS = [(model, *row) for model, rows in OUTPUTS.items() for row in rows]
name_of = lambda row: f"{row[0]}-{row[1]}"


def required(model, rows=1):
    return {
        "ensemble": lambda: ensemble_inputs([PROMPT] * rows, 4),
        "fastertransformer": lambda: transformer_inputs([[1, 80, 90]] * rows, 4),
        "preprocessing": lambda: [column("QUERY", [b"a"] * rows, "BYTES"),
                                  column("REQUEST_OUTPUT_LEN", [4] * rows, np.uint32)],
        "postprocessing": lambda: [tensor("TOKENS_BATCH", [[[1, 80]]] * rows, np.uint32),
                                   column("sequence_length", [2] * rows, np.uint32)],
    }[model]()


def with_tensor(model, made):
    return [given for given in required(model) if given.name() != made.name()] + [made]


def filled(name, shape, dtype):
    """Any values: what is wrong is seen before them."""
    return tensor(name, np.full(shape, b"" if dtype == "BYTES" else 1, object if dtype == "BYTES" else dtype), dtype)


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_input(triton, row):
    model, name, datatype, shape, optional = row
    metadata = {t.name: (t.datatype, list(t.shape)) for t in triton.get_model_metadata(model).inputs}
    assert metadata[name] == (datatype, shape)
    config = {t.name: t for t in triton.get_model_config(model).config.input}[name]
    assert (list(config.dims), config.optional) == (shape[1:], optional)
    sizes = [1 if size < 0 else size for size in shape]
    # Types are strict: INT32 is none of UINT32.
    other, sent = ("UINT32", np.uint32) if datatype == "INT32" else ("INT32", np.int32)
    with failing("INVALID_ARGUMENT", f"[request id: <id_unknown>] inference input '{name}' data-type is '{other}', but "
                 f"model '{model}' expects '{datatype}'"):
        triton.infer(model, with_tensor(model, filled(name, sizes, sent)))
    with failing("INVALID_ARGUMENT", f"unexpected shape for input '{name}' for model '{model}'. Expected "
                 f"[{','.join(map(str, shape))}], got [1,1,1,1]"):
        triton.infer(model, with_tensor(model, filled(name, [1] * 4, DTYPES[datatype])))
    # Of three rows, where the others have one: the first tensor of a request rules.
    with failing("INVALID_ARGUMENT", "batch size does not match other inputs for"):
        triton.infer(model, with_tensor(model, filled(name, [3, *sizes[1:]], DTYPES[datatype])))
    if not optional:
        with failing("INVALID_ARGUMENT", f"missing required input(s) ['{name}']"):
            triton.infer(model, [given for given in required(model) if given.name() != name])


# With two rows and, where there are beams, two of them: the shape on the wire, which metadata need not have.
WIRE_SHAPES = {
    "OUTPUT_0": [4], "sequence_length": [2, 2], "cum_log_probs": [2, 2], "output_log_probs": [2, 2, 4],
    "output_ids": [2, 2, 7], "INPUT_ID": [2, None], "REQUEST_INPUT_LEN": [2, 1], "BAD_WORDS_IDS": [2, 2, None],
    "STOP_WORDS_IDS": [2, 2, None], "REQUEST_OUTPUT_LEN": [2, 1], "OUTPUT": [2],
}


@pytest.mark.parametrize("row", OUTPUT_ROWS, ids=name_of)
def test_output(triton, row):
    model, name, datatype, shape = row
    metadata = {t.name: (t.datatype, list(t.shape)) for t in triton.get_model_metadata(model).outputs}
    assert metadata[name] == (datatype, shape)
    assert list({t.name: t for t in triton.get_model_config(model).config.output}[name].dims) == shape[1:]
    more = [] if model in ("preprocessing", "postprocessing") else [
        column("beam_width", [2, 2], np.uint32), column("is_return_log_probs", [True, True], bool)]
    response = triton.infer(model, [*required(model, 2), *more],
                            outputs=[triton_grpc.InferRequestedOutput(name)]).get_response()
    if name == "PROMPT_LEARNING_TASK_NAME_IDS":
        assert not response.outputs, "declared, and never produced"
        return
    assert [(output.name, output.datatype) for output in response.outputs] == [(name, datatype)]
    got, expected = list(response.outputs[0].shape), WIRE_SHAPES[name]
    assert len(got) == len(expected) and all(want in (None, size) for size, want in zip(got, expected)), got
    assert len(response.raw_output_contents) == 1 and len(response.outputs[0].contents.ListFields()) == 0


# What stands for a tensor that is left out, in a request that it would change. The ids are of the bundled model: 825 is
# its first greedy token after this prompt, 780 what is drawn, 390 a token at which some beams end earlier than others.
SAMPLED = dict(runtime_top_k=20, temperature=1.7, random_seed=5)
NUCLEUS = dict(runtime_top_p=0.95, temperature=1.7, random_seed=5)
BEAMS = dict(beam_width=3)
DEFAULTS = {
    "runtime_top_k": (0, NUCLEUS, 3), "runtime_top_p": (0.0, SAMPLED, 0.2), "temperature": (1.0, dict(runtime_top_k=20), 3.0),
    "repetition_penalty": (1.0, SAMPLED, 3.0), "presence_penalty": (0.0, SAMPLED, 5.0),
    "frequency_penalty": (0.0, SAMPLED, 5.0), "min_length": (0, dict(end_id=825), 12),
    "random_seed": (0, dict(runtime_top_k=50, temperature=1.7), 9), "top_p_decay": (1.0, NUCLEUS, 0.1),
    "top_p_min": (1e-6, {**NUCLEUS, "top_p_decay": 1e-4}, 1.0),
    "top_p_reset_ids": (2 ** 32 - 1, {**NUCLEUS, "top_p_decay": 1e-4}, None), "end_id": (2, SAMPLED, 780),
    "is_return_log_probs": (False, SAMPLED, True), "beam_width": (1, {}, 3), "start_id": (1, SAMPLED, None),
    "len_penalty": (0.0, {**BEAMS, "end_id": 390}, 8.0), "beam_search_diversity_rate": (0.0, BEAMS, -4.0),
}


def answer(triton, **parameters):
    outputs = outputs_of(triton.infer("fastertransformer", transformer_inputs([[1, 80, 90]], 16, **parameters)))
    return {name: value.tolist() for name, value in outputs.items()}


@pytest.mark.parametrize("name", DEFAULTS)
def test_default(triton, name):
    default, others, different = DEFAULTS[name]
    without = answer(triton, **others)
    assert answer(triton, **{**others, name: default}) == without
    if different is not None:
        assert answer(triton, **{**others, name: different}) != without, "a request that the tensor changes"


def test_every_sampling_tensor_has_a_default_here():
    assert set(DEFAULTS) | {"prompt_learning_task_name_ids", "exclude_input_in_output"} == set(SCALARS)


@pytest.mark.parametrize("name", ["bad_words_list", "stop_words_list"])
def test_default_word_list(triton, name):
    assert answer(triton, **{name: [[[0], [-1]]]}) == answer(triton)


@pytest.mark.parametrize("name,same,as_if", [
    ("runtime_top_k", {"runtime_top_k": 5000, "temperature": 1.5}, {"runtime_top_k": 1024, "temperature": 1.5}),
    ("runtime_top_k", {"runtime_top_k": 0, "runtime_top_p": 0.0, "temperature": 1.5}, {"runtime_top_k": 1}),
    ("runtime_top_p", {"runtime_top_k": 9, "runtime_top_p": 0.0}, {"runtime_top_k": 9, "runtime_top_p": 1.0}),
    ("runtime_top_p", {"runtime_top_p": 7.0, "temperature": 1.5}, {"runtime_top_p": 1.0, "temperature": 1.5}),
    ("runtime_top_p", {"runtime_top_p": 0.0, "runtime_top_k": 1}, {"runtime_top_p": -3.0, "runtime_top_k": 1}),
    ("runtime_top_p", {"runtime_top_p": 1e-6, "temperature": 1.5}, {"runtime_top_k": 1}),  # the best alone is enough
    ("temperature", {"temperature": 0.0, "runtime_top_k": 40}, {"runtime_top_k": 1}),
    ("top_p_decay", {**NUCLEUS, "top_p_decay": 1.5}, {**NUCLEUS, "top_p_decay": 1.0}),
    ("top_p_decay", {**NUCLEUS, "top_p_decay": 0.0}, {**NUCLEUS, "top_p_decay": 1.0}),
    ("top_p_min", {**NUCLEUS, "top_p_decay": 0.1, "top_p_min": 0.0}, {**NUCLEUS, "top_p_decay": 0.1, "top_p_min": 0.5}),
    ("top_p_decay", {**SAMPLED, "top_p_decay": 0.1}, SAMPLED),  # of the top-p kind alone
    ("start_id", {**SAMPLED, "start_id": 77}, SAMPLED),  # of empty prompts alone
    ("beam_width", {"beam_width": 0}, {"beam_width": 1}),
    ("beam_width", {"beam_width": 3, **SAMPLED, "temperature": 1.0}, {"beam_width": 3}),  # k, p and the seed are ignored
    ("end_id", {"end_id": 50256}, {"end_id": 50256, "min_length": 16}),  # outside of the vocabulary: never stops
], ids=lambda value: value if isinstance(value, str) else "")
def test_values_that_mean_the_same(triton, name, same, as_if):
    ids = lambda parameters: answer(triton, **parameters)["output_ids"]
    assert ids(same) == ids(as_if)


@pytest.mark.parametrize("name,values,beams", [
    ("beam_width", [2, 1], 2), ("beam_width", [1, 2], 1), ("is_return_log_probs", [True, False], 1),
    ("is_return_log_probs", [False, True], 1)], ids=lambda value: str(value).replace(" ", ""))
def test_element_0_rules_for_the_whole_batch(triton, name, values, beams):
    outputs = outputs_of(triton.infer("fastertransformer", transformer_inputs([[1, 80]] * 2, 4, **{name: values})))
    assert outputs["sequence_length"].shape == (2, beams)
    assert ("cum_log_probs" in outputs) == (name == "is_return_log_probs" and values[0])


@pytest.mark.parametrize("name", ["INPUT_0", "INPUT_1", "INPUT_2", "INPUT_3"])
def test_only_the_first_element_of_a_row_is_used(triton, name):
    first, second, dtype = {"INPUT_0": (PROMPT.encode(), b"The dog", "BYTES"), "INPUT_1": (4, 9, np.uint32),
                            "INPUT_2": (b"", b"a", "BYTES"), "INPUT_3": (b"", b"e", "BYTES")}[name]
    inputs = with_tensor("ensemble", tensor(name, [[first, second]], dtype))
    got = outputs_of(triton.infer("ensemble", inputs))
    assert got["OUTPUT_0"].tolist() == outputs_of(triton.infer("ensemble", required("ensemble")))["OUTPUT_0"].tolist()


@pytest.mark.parametrize("name", ["request_prompt_embedding", "request_prompt_lengths", "request_prompt_type", "memory_len",
                                  "session_len"])
def test_tensor_of_no_llama_is_unexpected(triton, name):
    for model in ("ensemble", "fastertransformer"):
        with failing("INVALID_ARGUMENT", f"[request id: <id_unknown>] unexpected inference input '{name}' for model "
                     f"'{model}'"):
            triton.infer(model, [*required(model), column(name, [1], np.uint32)])


def test_rows_have_values_of_their_own(triton):
    """[B, 1] of every sampling tensor: each row is what it is alone."""
    rows = {"runtime_top_k": [0, 9, 30], "runtime_top_p": [0.9, 0.0, 0.5], "temperature": [1.5, 0.7, 2.0],
            "repetition_penalty": [1.0, 1.3, 1.1], "random_seed": [1, 2, 3], "top_p_decay": [0.9, 1.0, 0.5],
            "min_length": [0, 5, 2], "end_id": [2, 2, 13]}
    prompts = [[1, 80], [1, 90], [1, 100]]
    batch = outputs_of(triton.infer("fastertransformer", transformer_inputs(prompts, 8, **rows)))["output_ids"]
    for row, prompt in enumerate(prompts):
        alone = outputs_of(triton.infer("fastertransformer", transformer_inputs(
            [prompt], 8, **{name: [values[row]] for name, values in rows.items()})))["output_ids"]
        assert alone[0].tolist() == batch[row].tolist()


@pytest.mark.parametrize("model", ["ensemble", "fastertransformer"])
def test_partial_responses_carry_full_tensors(triton, triton_cluster, model):
    """Each with all rows, the tail filled with end_id, and log probabilities where they were asked for."""
    inputs = ensemble_inputs([PROMPT, "The dog"], 12, is_return_log_probs=True, end_id=777) if model == "ensemble" \
        else transformer_inputs([[1, 80, 90], [1, 80]], 12, is_return_log_probs=True, end_id=777)
    whole = outputs_of(triton.infer(model, inputs))
    with Stream(triton_cluster.gateway.address) as stream:
        stream.send(model, inputs)
        results = [outputs_of(result) for result in stream.collect()]
    assert len(results) > 2
    for outputs in results:
        assert {name: value.shape for name, value in outputs.items()} == {
            name: value.shape for name, value in whole.items()}
        if model == "fastertransformer":
            for row in range(2):
                length = outputs["sequence_length"][row, 0] - (row == 1)  # the shorter prompt has one id of padding
                assert outputs["output_ids"][row, 0, :length].tolist() == whole["output_ids"][row, 0, :length].tolist()
                assert (outputs["output_ids"][row, 0, length:] == 777).all()
