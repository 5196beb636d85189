"""Compares the bundled model, whose weights are trained, with Hugging Face transformers on its own kind of text.

    python tests/gpu/bundled_model.py PROGRAMS [--tensor_parallel 1,2] [--collectives peer,nccl] [--device cuda|cpu]

The text is what models/demo/story_generator.py draws, held out from training (models/demo/train.py), in rows as long as
the model's context. Every position is teacher-forced: what is asked for is the most probable token after the text so
far. dump_logits computes the rows in float16 and in bfloat16 (a prompt in chunks, the last 256 positions one by one),
and a real cluster answers, in each of them and at each degree of tensor parallelism, to every prefix of the first rows.
Right is where at least 99 % of the tokens are outright those of transformers in float32. Those beyond the error that
tests/gpu/reference.py derives are counted too. Needs what tests/gpu/whole_model.py needs; the last line counts.
"""

import argparse
import pathlib
import random
import sys
import tempfile

import numpy as np
import sentencepiece
import torch
import transformers

import reference as references
import whole_model

MODEL = references.ROOT / "models" / "demo"
TEXT_SEED = 1 << 40  # that of train.py's held-out documents
BOS, EOS = 1, 2
CONTEXT = 2048
ROWS = 4
CLUSTER_ROWS = 2  # of them
LEAST_EQUAL = 0.99
KV_BYTES = 1 << 30  # of all ranks together


def make_rows():
    """int32 ids [ROWS, CONTEXT], documents from BOS to EOS one after the other, as the model was trained."""
    sys.path.insert(0, str(MODEL))
    import story_generator
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(MODEL / "tokenizer.model"))
    draw = random.Random(TEXT_SEED)
    ids = []
    while len(ids) < ROWS * CONTEXT:
        ids += [BOS, *tokenizer.encode(story_generator.make_document(draw)), EOS]
    return np.array(ids[:ROWS * CONTEXT], np.int32).reshape(ROWS, CONTEXT)


class BundledCheck:
    """The text, what transformers says after each of its tokens, and how others compare."""

    def __init__(self, args, report):
        self.args, self.report = args, report
        self.rows = make_rows()
        model = transformers.LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float32).to(args.device).eval()
        assert model.config.max_position_embeddings >= CONTEXT
        ids = torch.from_numpy(self.rows.astype(np.int64)).to(args.device)
        self.reference = references.Reference.of(model, ids)
        if args.device == "cuda":
            torch.cuda.empty_cache()

    def judge(self, name, dtype, positions, tokens):
        """`tokens` of `positions`, which count through all rows."""
        rows = self.reference.rows(torch.from_numpy(positions.astype(np.int64)).to(self.args.device))
        differ, wrong = rows.compare_argmax(torch.from_numpy(tokens.astype(np.int64)).to(self.args.device), dtype)
        equal = 1 - differ / len(positions)
        self.report.add(equal >= LEAST_EQUAL,
                        f"bundled model {dtype} {name}: {100 * equal:.3f} % of {len(positions)} argmaxes equal, "
                        f"{differ} others, {wrong} of them beyond the error")

    def check_dump(self, dtype):
        with tempfile.TemporaryDirectory() as scratch:
            found = [whole_model.dump(self.args.programs, MODEL, pathlib.Path(scratch), dtype, self.args.device, row,
                                      np.array([0]))[0] for row in self.rows]
        self.judge("dump_logits", dtype, np.arange(self.rows.size), np.concatenate(found))

    def check_cluster(self, dtype, degree, collectives):
        import cluster_answers  # needs gRPC
        flags = [f"--dtype={dtype}", f"--collectives={collectives}", f"--kv_cache_bytes={KV_BYTES // degree}"]
        gpus = ""
        if self.args.device == "cuda":
            gpus = cluster_answers.gpus_of(degree, torch.cuda.device_count())
        # A prompt leaves room for the token that is drawn after it.
        lengths = np.arange(1, CONTEXT)
        prompts = [row[:length].tolist() for row in self.rows[:CLUSTER_ROWS] for length in lengths]
        positions = np.concatenate([row * CONTEXT + lengths - 1 for row in range(CLUSTER_ROWS)])
        with cluster_answers.UpCluster(self.args.programs, MODEL, self.args.device, degree, gpus, flags) as cluster:
            answers = cluster_answers.ask_all(cluster, prompts, 1)
        name = f"tensor parallel {degree}{' ' + collectives if degree > 1 else ''}{' on GPUs ' + gpus if gpus else ''}"
        self.judge(name, dtype, positions, answers.tokens)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("programs", type=lambda text: pathlib.Path(text).resolve())
    parser.add_argument("--dtypes", type=whole_model.words, default=list(references.ROUNDOFF))
    parser.add_argument("--tensor_parallel", type=whole_model.numbers, default=[1])
    parser.add_argument("--collectives", type=whole_model.words, default=["peer", "nccl"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=float, default=900, help="seconds after which no check begins")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    report = whole_model.Report(args.budget)
    check = BundledCheck(args, report)
    report.note(f"reference of {check.rows.size} positions")
    for dtype in args.dtypes:
        if report.has_time(f"bundled model {dtype}"):
            check.check_dump(dtype)
        for degree in args.tensor_parallel:
            for collectives in args.collectives if degree > 1 else ["auto"]:
                what = f"bundled model {dtype} tensor parallel {degree} {collectives}"
                if not report.has_time(what):
                    continue
                try:
                    check.check_cluster(dtype, degree, collectives)
                except Exception as error:  # a cluster that fails is a result, and the next one is asked all the same
                    report.add(False, f"{what}: {error}")
    print(f"{report.passed} passed, {report.failed} failed", flush=True)
    return 0 if report.failed == 0 and report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
