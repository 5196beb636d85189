"""Compares whole models on the GPU with Hugging Face transformers.

    python tests/gpu/whole_model.py PROGRAMS [MODEL…] [--tensor_parallel 1,2] [--collectives peer,nccl] [--budget S]

PROGRAMS is the folder of the built programs. Each MODEL (a file of tests/gpu/models; all of them if none is given) gets
random weights that bfloat16 and float16 both hold exactly, so that one float32 reference serves both. Then
- dump_logits runs a sequence as long as the model's context, but at most 16,384 tokens, in float16 and in bfloat16: a
  prompt in chunks, its last 256 positions one by one;
- a real cluster (gateway, tokenizer, a worker process a rank) answers at each degree of tensor parallelism and with
  each kind of collectives: the most probable tokens after 1,024 prompts of 1 to 4,095 tokens (256 where ranks share
  GPUs), and along 32 answers of 64 tokens.
Right is where the argmax of every position is the reference's, or the reference's gap between the two lies below the
error that the roundings of the dtype are expected to make (tests/gpu/reference.py derives it), and where no logit or
log probability differs by more than that error. Degrees are held against the first one in the same way, by two such errors.
Needs torch, transformers and, for clusters, the packages of tests/requirements.txt; the last line counts.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

import reference as references

CONTEXTS = {"llama2_7b": 4096, "llama3_8b": 16384, "llama2_70b_4_layers": 4096}
CLUSTER_DTYPES = {"llama2_7b": "float16", "llama3_8b": "bfloat16", "llama2_70b_4_layers": "float16"}
CLUSTER_CONTEXT = 4096
KV_BYTES = 4 << 30  # of all ranks together
PROMPTS = 1024
ANSWERS, ANSWER_PROMPT, ANSWER_TOKENS = 32, 96, 64
CHUNK = 512
DECODED = 256


class Report:
    def __init__(self, budget):
        self.begun = time.monotonic()
        self.budget = budget
        self.passed = self.failed = 0

    def seconds(self):
        return time.monotonic() - self.begun

    def add(self, right, text):
        self.passed += right
        self.failed += not right
        print(f"{'right' if right else 'WRONG'} ({self.seconds():.0f} s): {text}", flush=True)

    def note(self, text):
        print(f"{self.seconds():.1f} s: {text}", flush=True)

    def has_time(self, what):
        if self.seconds() < self.budget:
            return True
        self.add(False, f"{what}: not run, --budget {self.budget} is spent")
        return False


class Model:
    """One model's weights on disk, its reference and the sequence that all are asked about."""

    def __init__(self, name, folder, device, tokens):
        self.name, self.folder, self.device = name, folder, device
        self.model, config = references.make_model(name, tokens, device)
        references.save(self.model, config, folder)
        random = torch.Generator().manual_seed(1)
        self.ids = torch.randint(0, config["vocab_size"], (tokens,), generator=random)
        self.reference = None

    def make_reference(self):
        self.reference = references.Reference.of(self.model, self.ids[None].to(self.device))
        self.release_cache()

    def release_cache(self):
        """Leaves the GPU's memory that PyTorch keeps to the programs that are checked."""
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def on_device(self, array):
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def dump(programs, folder, scratch, dtype, device, ids, wanted):
    """What dump_logits computes with the model in `folder`: (the argmax of each position of `ids`, logits of the
    positions `wanted`, what it said). Its files come into the folder `scratch`."""
    files = [scratch / name for name in ("ids", "wanted", "ours")]
    files[0].write_bytes(ids.astype(np.int32).tobytes())
    files[1].write_bytes(wanted.astype(np.int32).tobytes())
    done = subprocess.run([programs / "dump_logits", folder, dtype, device, *files, str(CHUNK), str(len(ids) - DECODED)],
                          check=True, stdout=subprocess.PIPE, text=True)
    argmax = np.fromfile(f"{files[2]}.argmax", np.int32)
    assert len(argmax) == len(ids), f"dump_logits gave {len(argmax)} positions of {len(ids)}"
    logits = np.fromfile(f"{files[2]}.logits", np.float32).reshape(len(wanted), -1)
    return argmax, logits, ", ".join(done.stdout.splitlines())


def check_logits(programs, model, dtype, report):
    tokens = len(model.ids)
    wanted = np.unique(np.concatenate([np.arange(16), np.linspace(0, tokens - 1, 48).astype(int)]))
    argmax, logits, said = dump(programs, model.folder, model.folder, dtype, model.device, model.ids.numpy(), wanted)
    report.note(f"{model.name} {dtype}: {said}")
    argmax, logits = model.on_device(argmax), model.on_device(logits)
    differ, wrong = model.reference.compare_argmax(argmax, dtype)
    rows = model.reference.rows(torch.from_numpy(wanted).to(model.device))
    with torch.inference_mode():
        error = (logits - rows.logits()).abs()
        worst = float((error / rows.tolerance(dtype)).nan_to_num(nan=float("inf")).max())
        deviation = float(rows.logits().std())
    report.add(wrong == 0 and worst <= 1,
               f"{model.name} {dtype}: {tokens} positions, {differ} other argmaxes, {wrong} of them beyond the error; "
               f"worst logit {worst:.3f} of the tolerance, mean error {float(error.mean()):.1e}, logits of deviation "
               f"{deviation:.2f}")


class ClusterCheck:
    """Asks clusters of one model, and remembers what the first one said."""

    def __init__(self, programs, model, dtype, report):
        self.programs, self.model, self.dtype, self.report = programs, model, dtype, report
        tokens = min(CLUSTER_CONTEXT, len(model.ids)) - 1  # and one that is drawn
        self.lengths = np.unique(np.linspace(1, tokens, PROMPTS).astype(int))
        self.ids = model.ids[:tokens].tolist()
        self.first = None

    def run(self, degree, collectives, worker_flags):
        import cluster_answers  # needs gRPC
        self.model.release_cache()
        flags = [f"--dtype={self.dtype}", f"--collectives={collectives}",
                 f"--kv_cache_bytes={KV_BYTES // degree}", *worker_flags]
        gpus = ""
        if self.model.device == "cuda":
            gpus = cluster_answers.gpus_of(degree, torch.cuda.device_count())
        every = 1
        if gpus:  # ranks that share a GPU take turns, which makes each step slow
            every = 4
            flags += ["--max_running_sequences=32", "--gpu_memory_fraction=0.98"]
        lengths = self.lengths[::every]
        name = f"{self.model.name} {self.dtype} tensor parallel {degree} {collectives if degree > 1 else ''}".strip()
        name += f" on GPUs {gpus}" if gpus else ""
        begins = range(0, ANSWERS * 120, 120)
        with cluster_answers.UpCluster(self.programs, self.model.folder, self.model.device, degree, gpus,
                                       flags) as cluster:
            self.report.note(f"{name}: started")
            after_prompts = cluster_answers.ask_all(cluster, [self.ids[:n] for n in lengths], 1)
            self.report.note(f"{name}: {len(lengths)} prompts")
            decoded = cluster_answers.ask_all(
                cluster, [self.ids[begin:begin + ANSWER_PROMPT] for begin in begins], ANSWER_TOKENS)
        prompts = self.compare(self.model.reference.rows(self.model.on_device(lengths - 1)), after_prompts)
        answers = self.compare(self.reference_of_answers(begins, decoded.tokens), decoded)
        right = prompts.right and answers.right
        text = f"{name}: after prompts {prompts.text}; decoding {answers.text}"
        if self.first is not None:
            same = self.against_first(after_prompts, prompts.allowed, every)
            right = right and same.right
            text += f"; against the first cluster {same.text}"
        elif every == 1:
            self.first = after_prompts
        self.report.add(right, text)

    def reference_of_answers(self, begins, tokens):
        """Of the positions whose logits each answer's tokens were drawn from, with these tokens as its history."""
        rows = [torch.cat([self.model.ids[begin:begin + ANSWER_PROMPT], torch.from_numpy(answer)])[:-1]
                for begin, answer in zip(begins, tokens.reshape(ANSWERS, ANSWER_TOKENS))]
        whole = references.Reference.of(self.model.model, torch.stack(rows).to(self.model.device))
        width = ANSWER_PROMPT + ANSWER_TOKENS - 1
        positions = np.arange(ANSWERS)[:, None] * width + np.arange(ANSWER_PROMPT - 1, width)[None]
        return whole.rows(self.model.on_device(positions.reshape(-1)))

    def compare(self, reference, answers):
        result = argparse.Namespace()
        differ, wrong = reference.compare_argmax(self.model.on_device(answers.tokens), self.dtype)
        expected, result.allowed = reference.logprobs(self.model.on_device(answers.ids), self.dtype)
        error = (self.model.on_device(answers.logprobs) - expected).abs() / result.allowed
        worst = float(error.nan_to_num(nan=float("inf")).max())
        result.right = wrong == 0 and worst <= 1
        result.text = (f"{len(answers.tokens)} positions, {differ} other argmaxes, {wrong} beyond the error, worst log "
                       f"probability {worst:.3f} of the tolerance")
        return result

    def against_first(self, answers, allowed, every):
        """Where the two chose different tokens, both must be among the first one's best, and as near as two errors.
        `answers` are to every so many of the prompts."""
        allowed = allowed.cpu().numpy()
        differ = wrong = 0
        worst = 0.0
        for row, (first_ids, first_logprobs) in enumerate(zip(self.first.ids[::every], self.first.logprobs[::every])):
            first = dict(zip(first_ids.tolist(), first_logprobs.tolist()))
            limit = 2 * allowed[row].max()
            mine = int(answers.tokens[row])
            if mine != self.first.tokens[row * every]:
                differ += 1
                wrong += not (mine in first and max(first.values()) - first[mine] <= 2 * limit)
            changes = [abs(logprob - first[token]) / limit for token, logprob in
                       zip(answers.ids[row].tolist(), answers.logprobs[row].tolist()) if token in first]
            worst = max([worst, *changes])
        text = (f"{differ} other ids, {wrong} beyond two errors, worst log probability {worst:.3f} of two errors")
        return argparse.Namespace(right=wrong == 0 and worst <= 1, text=text)


def check_model(name, args, report):
    folder = args.folder / name
    # Clusters alone are asked about fewer positions.
    tokens = CONTEXTS[name] if args.dtypes else min(CONTEXTS[name], CLUSTER_CONTEXT)
    model = Model(name, folder, args.device, tokens)
    report.note(f"{name}: made")
    if not args.dtypes and not args.tensor_parallel:
        return
    model.make_reference()
    report.note(f"{name}: reference of {len(model.ids)} positions")
    for dtype in args.dtypes:
        if report.has_time(f"{name} {dtype}"):
            check_logits(args.programs, model, dtype, report)
    if not args.tensor_parallel:
        return
    check = ClusterCheck(args.programs, model, CLUSTER_DTYPES[name], report)
    for degree in args.tensor_parallel:
        for collectives in args.collectives if degree > 1 else ["auto"]:
            what = f"{name} tensor parallel {degree} {collectives}"
            if not report.has_time(what):
                continue
            try:
                check.run(degree, collectives, args.worker_flags)
            except Exception as error:  # a cluster that fails is a result, and the next one is asked all the same
                report.add(False, f"{what}: {error}")


def words(text):
    return [word for word in text.split(",") if word]


def numbers(text):
    return [int(word) for word in words(text)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("programs", type=lambda text: pathlib.Path(text).resolve())
    parser.add_argument("models", nargs="*", default=list(CONTEXTS))
    parser.add_argument("--dtypes", type=words, default=list(references.ROUNDOFF))
    parser.add_argument("--tensor_parallel", type=numbers, default=[])
    parser.add_argument("--collectives", type=words, default=["peer", "nccl"])
    parser.add_argument("--worker_flags", type=str.split, default=[])
    parser.add_argument("--keep", type=pathlib.Path, help="a folder where the weights stay")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=float, default=900, help="seconds after which no check begins")
    args = parser.parse_intermixed_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    report = Report(args.budget)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as temporary:
        args.folder = args.keep or pathlib.Path(temporary)
        for name in args.models:
            if report.has_time(name):
                check_model(name, args, report)
            if args.device == "cuda":
                torch.cuda.empty_cache()
            if not args.keep:
                shutil.rmtree(args.folder / name, ignore_errors=True)
    print(f"{report.passed} passed, {report.failed} failed", flush=True)
    return 0 if report.failed == 0 and (report.passed or args.keep) else 1


if __name__ == "__main__":
    sys.exit(main())
