"""The service's ids and texts against transformers' LlamaTokenizer: no difference at all.

CARAVAN_LONG_TESTS=1 compares 1,000,000 texts instead of 50,000; CARAVAN_SEED chooses others.
"""

import concurrent.futures
import multiprocessing
import os

import pytest
from parity import fuzz_decode, fuzz_encode, load_reference

LONG = bool(os.environ.get("CARAVAN_LONG_TESTS"))
SEED = int(os.environ.get("CARAVAN_SEED", "20240229"))
NUM_TEXTS = 1_000_000 if LONG else 50_000
NUM_ID_LISTS = 200_000 if LONG else 10_000
CHUNK = 2500


def fuzz(function, tokenizers, total):
    """Runs `function` over `total` cases, spread over all tokenizers and the machine's cores."""
    print(f"CARAVAN_SEED={SEED}")
    names = list(tokenizers)
    chunk = min(CHUNK, -(-total // len(names)))
    jobs = []
    for number in range(-(-total // chunk)):
        name = names[number % len(names)]
        folder, process = tokenizers[name]
        jobs.append((name, str(folder), process.port, SEED * 100_000 + number, chunk))
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        differences = [line for lines in pool.map(function, jobs) for line in lines]
    assert not differences, f"seed {SEED}: {len(differences)} differences\n" + "\n".join(differences[:20])


@pytest.mark.timeout(7200 if LONG else 300)
def test_ids_equal_those_of_transformers(all_tokenizers):
    fuzz(fuzz_encode, all_tokenizers, NUM_TEXTS)


@pytest.mark.timeout(7200 if LONG else 300)
def test_texts_equal_those_of_transformers_streamed_or_whole(all_tokenizers):
    fuzz(fuzz_decode, all_tokenizers, NUM_ID_LISTS)


@pytest.mark.parametrize("text", ["", " ", "Hello <s> world</s>", "▁ x  y", "naïve 世界 🦙\n"])
def test_the_reference_is_what_encode_does(all_tokenizers, text):
    from helpers.protos import load_protos

    protos = load_protos().tokenizer
    for folder, process in all_tokenizers.values():
        reference = load_reference(folder)
        described = process.stub.GetVocabulary(protos.GetVocabularyRequest())
        request = protos.EncodeRequest()
        request.inputs.add(text=text.encode(), parse_special_tokens=True, add_bos=described.adds_bos,
                           add_eos=described.adds_eos)
        request.inputs.add(text=text.encode())
        outputs = process.stub.Encode(request).outputs
        assert list(outputs[0].token_ids) == reference.encode(text)
        assert list(outputs[1].token_ids) == reference.encode(text, add_special_tokens=False,
                                                              split_special_tokens=True)
        assert described.size == max(reference.get_vocab().values()) + 1
        assert described.bos_token_id == reference.bos_token_id
        assert list(described.eos_token_ids)[:1] == [reference.eos_token_id]
