"""A real cluster on the GPU answers the same bits with its fast loop, pipelined and with CUDA graphs, and the simple one.

    python tests/gpu/same_ids.py PROGRAMS [MODEL[:DTYPE]…] [--tensor_parallel N] [--device cuda|cpu]

Random weights (--load_format=dummy) in the shape of a file of tests/gpu/models. One request at a time, so that both
loops run steps of the same sequences: prompts of several lengths, greedy and drawn, and 3 to 16 samples of a prompt at
once, which decode together in steps that are padded to a graph's number of rows. Compared are the ids and the bits of
the log probabilities. The same with --batch_invariant, there one request at a time and then all at once, with prompts
that are cached: steps may hold anything. Needs the packages of tests/requirements.txt; the last line counts.
"""

import argparse
import concurrent.futures
import json
import pathlib
import shutil
import struct
import sys
import tempfile
import time

import cluster_answers

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOOPS = {"fast": [], "simple": ["--cuda_graphs=false", "--pipelined=false"]}
DTYPES = {"llama2_7b": "float16", "llama3_8b": "bfloat16", "llama2_70b_4_layers": "float16"}


def requests(config, tokens):
    """(prompt, max_tokens, fields of the message) of each."""
    vocabulary = config["vocab_size"]
    most = config["max_position_embeddings"] - tokens

    def prompt(length, seed):
        return [(seed * 7919 + i * i * 31 + i * 17) % vocabulary for i in range(min(length, most))]

    for seed, length in enumerate([1, 2, 30, 100, 700, 3000]):
        yield prompt(length, seed), tokens, {}
        yield prompt(length, seed + 50), tokens, {"temperature": 1.0, "sampling": {"seed": seed + 1}}
    for seed, samples in enumerate([3, 5, 8, 11, 16]):
        yield prompt(40 + seed, seed + 100), tokens, {
            "temperature": 0.8, "sampling": {"seed": seed + 1, "top_p": 0.95, "repetition_penalty": 1.1},
            "num_samples": samples}


def bits(samples):
    """Ids, and the bits of all log probabilities."""
    return [[(entry.token_id, struct.pack("f", entry.logprob), [(top.token_id, struct.pack("f", top.logprob))
                                                                for top in entry.top]) for entry in sample]
            for sample in samples]


def answers(args, folder, dtype, flags, orders):
    """Of one cluster, the answers to all requests for each order: one after another, or all at once."""
    config = json.loads((folder / "config.json").read_text())
    asked = list(requests(config, args.tokens))
    with cluster_answers.UpCluster(
            args.programs, folder, args.device, tensor_parallel=args.tensor_parallel,
            worker_flags=["--load_format=dummy", f"--dtype={dtype}", *flags, *args.worker_flags]) as cluster:
        found = []
        for order in orders:
            with concurrent.futures.ThreadPoolExecutor(len(asked) if order == "at once" else 1) as pool:
                found.append(list(pool.map(
                    lambda item: bits(cluster_answers.ask(cluster, item[0], item[1], **item[2])), asked)))
        return found


def compare(args, name, dtype, invariant):
    """Prints one line, returns whether all is the same."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / name
        folder.mkdir()
        shutil.copy(ROOT / "tests" / "gpu" / "models" / f"{name}.json", folder / "config.json")
        shutil.copy(ROOT / "models" / "demo" / "tokenizer.model", folder)
        flags = ["--batch_invariant"] if invariant else []
        orders = ["one by one", "at once"] if invariant else ["one by one"]
        first, *others = [found for loop in LOOPS for found in answers(args, folder, dtype, flags + LOOPS[loop], orders)]
    pairs = [(a, b) for other in others for one, two in zip(first, other, strict=True)
             for a, b in zip(one, two, strict=True)]
    other_ids = sum([x[0] for x in a] != [x[0] for x in b] for a, b in pairs)
    other_bits = sum(a != b for a, b in pairs)
    tokens = sum(len(a) for a, _ in pairs)
    right = other_bits == 0 and tokens == len(pairs) * args.tokens
    print(f"{'right' if right else 'WRONG'}: {name} {dtype} tensor parallel {args.tensor_parallel} {' '.join(flags)}: "
          f"{len(pairs)} pairs of sequences, {tokens} tokens; {other_ids} with other ids, {other_bits} with other bits "
          f"({time.monotonic() - begun:.0f} s)", flush=True)
    return right


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("programs", type=pathlib.Path)
    parser.add_argument("models", nargs="*", default=["llama2_7b", "llama3_8b"])
    parser.add_argument("--tensor_parallel", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--worker_flags", type=str.split, default=[])
    parser.add_argument("--device", default="cuda")
    args = parser.parse_intermixed_args()
    results = []
    for model in args.models:
        name, _, dtype = model.partition(":")
        for invariant in (False, True):
            results.append(compare(args, name, dtype or DTYPES[name], invariant))
    print(f"{sum(results)} passed, {results.count(False)} failed", flush=True)
    return 0 if all(results) and results else 1


if __name__ == "__main__":
    sys.exit(main())
