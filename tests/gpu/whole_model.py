"""Compares the logits of whole models on the GPU with those of Hugging Face transformers.

    python tests/gpu/model_check.py PROGRAM_FOLDER MODEL DTYPE [--tokens N] [--decode N] [--device cuda|cpu]

MODEL is a file of tests/gpu/models, made with random weights in DTYPE and saved as safetensors. The reference runs the
same weights in float32; ours runs them in DTYPE: a prompt of N tokens in chunks, its last `--decode` positions one by
one. It is right where
- the argmax of every position is the reference's, or the reference's gap between the two lies below the error that
  the roundings of DTYPE are expected to make;
- whole rows of logits, of some positions, differ by no more than that error.
The error is derived as in tests/worker/model/runner/llama_golden_test.cc: with u the unit roundoff of DTYPE and n = 12 roundings
a layer, an error of 6 · u · √n · D / e · ‖w_v ⊙ g‖ for logit v, where D is how far relative errors of ±e in the embedding
and in every attention and feed-forward output move the reference's own logits. Needs torch and transformers.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
ROUNDOFF = {"float16": 2.0 ** -11, "bfloat16": 2.0 ** -8}
NOISE = 2.0 ** -12
ROUNDINGS_PER_LAYER = 12


def make_model(name, dtype, tokens, device):
    config = json.loads((HERE / "models" / f"{name}.json").read_text())
    config["max_position_embeddings"] = max(config["max_position_embeddings"], tokens)
    config["torch_dtype"] = dtype
    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(getattr(torch, dtype))
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
        torch.set_default_dtype(torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:  # as trained models have it: a spread that keeps hidden states of order 1
            parameter.data.normal_(0, 1 / math.sqrt(parameter.shape[1]))
        else:
            parameter.data.uniform_(0.5, 1.5)
    return model.eval(), config


class Noise:
    """Relative errors of ±NOISE in the embedding's and in every attention's and feed-forward layer's output."""

    def __init__(self, model):
        self.handles = [model.model.embed_tokens.register_forward_hook(self.disturb)]
        for layer in model.model.layers:
            self.handles += [layer.self_attn.register_forward_hook(self.disturb),
                             layer.mlp.register_forward_hook(self.disturb)]

    def disturb(self, _module, _inputs, output):
        def with_noise(x):
            return x * (1 + NOISE * (2 * torch.randint(0, 2, x.shape, device=x.device, dtype=x.dtype) - 1))

        return (with_noise(output[0]), *output[1:]) if isinstance(output, tuple) else with_noise(output)

    def remove(self):
        for handle in self.handles:
            handle.remove()


@torch.inference_mode()
def hidden_states(model, ids):
    """Normed hidden states of every position: rows of the head's input. In parts, since attention in float32 holds all
    its scores."""
    cache = transformers.DynamicCache()
    parts = [model.model(input_ids=part[None], past_key_values=cache, use_cache=True).last_hidden_state[0]
             for part in ids.split(1024)]
    return torch.cat(parts)


@torch.inference_mode()
def reference(model, ids, wanted):
    """Argmax, gaps as a function of another id, whole rows where wanted, and D / e for each position."""
    head = model.lm_head.weight
    exact = hidden_states(model, ids)
    noise = Noise(model)
    gains = torch.zeros(len(ids), device=exact.device)
    scale = (head * model.model.norm.weight).norm(dim=1)
    draws = 2
    sample = torch.randint(0, head.shape[0], (512,), device=exact.device)
    for _ in range(draws):
        change = (hidden_states(model, ids) - exact) @ head[sample].T / scale[sample]
        gains += change.pow(2).mean(dim=1)
    noise.remove()
    gains = (gains / draws).sqrt() / NOISE
    rows = exact[wanted] @ head.T
    return exact, gains, scale, rows


def run_ours(programs, folder, dtype, device, ids, wanted, chunk, decode):
    (folder / "ids").write_bytes(ids.astype(np.int32).tobytes())
    (folder / "wanted").write_bytes(wanted.astype(np.int32).tobytes())
    subprocess.run([programs / "dump_logits", folder, dtype, device, folder / "ids", folder / "wanted", folder / "ours",
                    str(chunk), str(len(ids) - decode)], check=True)
    return (np.fromfile(folder / "ours.argmax", np.int32), np.fromfile(folder / "ours.logits", np.float32))


@torch.inference_mode()
def compare(args, model, ids, wanted, ours):
    """Prints one line, returns whether all is right."""
    exact, gains, scale, rows = reference(model, ids, torch.from_numpy(wanted).to(ids.device))
    unit = 6 * ROUNDOFF[args.dtype] * math.sqrt(ROUNDINGS_PER_LAYER)
    argmax, logits = (torch.from_numpy(array).to(ids.device) for array in ours)
    head = model.lm_head.weight
    differ = wrong = 0
    for begin in range(0, len(ids), 512):
        values = exact[begin:begin + 512] @ head.T
        mine = argmax[begin:begin + 512].long()
        best = values.max(dim=1)
        gap = best.values - values.gather(1, mine[:, None])[:, 0]
        allowed = unit * gains[begin:begin + 512] * (scale[best.indices] + scale[mine])
        differ += int((best.indices != mine).sum())
        wrong += int((gap > allowed).sum())
    logits = logits.view(len(wanted), -1)
    tolerance = unit * gains[wanted][:, None] * scale[None]
    worst = float(((logits - rows).abs() / tolerance).nan_to_num(nan=math.inf).max())
    error = float((logits - rows).abs().mean())
    right = wrong == 0 and worst <= 1
    print(f"{'right' if right else 'WRONG'}: {args.model} {args.dtype}: {len(ids)} positions, {differ} other argmaxes, "
          f"{wrong} of them beyond the error; worst logit {worst:.3f} of the tolerance, mean error {error:.2e}, logits of "
          f"deviation {float(rows.std()):.2f}", flush=True)
    return right


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("programs", type=pathlib.Path)
    parser.add_argument("model")
    parser.add_argument("dtype", choices=ROUNDOFF)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--decode", type=int, default=256)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = pathlib.Path(name)
        model, config = make_model(args.model, args.dtype, args.tokens, args.device)
        model.save_pretrained(folder, max_shard_size="4GB")
        (folder / "config.json").write_text(json.dumps(config))
        ids = torch.randint(0, config["vocab_size"], (args.tokens,), generator=torch.Generator().manual_seed(1))
        wanted = np.unique(np.concatenate([np.arange(0, min(16, args.tokens)),
                                           np.linspace(0, args.tokens - 1, 48).astype(int)]))
        model.to("cpu")
        if args.device == "cuda":
            torch.cuda.empty_cache()
        print(f"made {args.model} after {time.monotonic() - begun:.1f} s", flush=True)
        ours = run_ours(args.programs.resolve(), folder, args.dtype, args.device, ids.numpy(), wanted, args.chunk,
                        args.decode)
        print(f"ran ours after {time.monotonic() - begun:.1f} s", flush=True)
        model = model.to(args.device).float()
        right = compare(args, model, ids.to(args.device), wanted, ours)
        print(f"compared after {time.monotonic() - begun:.1f} s", flush=True)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
