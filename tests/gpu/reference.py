"""LLaMA models of random weights, what Hugging Face transformers computes with them in float32, and how far a model
that rounds to two bytes may be from that.

The error is derived as in tests/worker/model/runner/llama_golden_test.cc: with u the unit roundoff of the dtype and
n = 12 roundings a layer, logit v may be off by 6 · u · √n · D / e · ‖w_v ⊙ g‖, where D is how far relative errors of ±e
in the embedding and in every attention and feed-forward output move the reference's own logits. Needs torch and
transformers.
"""

import concurrent.futures
import dataclasses
import json
import math
import os
import pathlib
import shutil

import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests" / "gpu" / "models"
ROUNDOFF = {"float16": 2.0 ** -11, "bfloat16": 2.0 ** -8}
NOISE = 2.0 ** -12
NOISE_DRAWS = 2
ROUNDINGS_PER_LAYER = 12
CHUNK = 1024  # positions at once: attention in float32 holds all their scores
FILES = 16  # of a checkpoint, each written by a thread


def make_model(name, tokens, device):
    """(model in float32, its config.json). Every weight is a number of bfloat16 and of float16, so that one reference
    serves both."""
    config = json.loads((MODELS / f"{name}.json").read_text())
    config["max_position_embeddings"] = max(config["max_position_embeddings"], tokens)
    torch.manual_seed(0)
    transformers.PreTrainedModel.init_weights = lambda self: None  # they are drawn below
    settings = {key: value for key, value in config.items() if key != "torch_dtype"}
    with torch.device(device), torch.no_grad():
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)).float().eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:  # as trained models have it: a spread that keeps hidden states of order 1
                parameter.normal_(0, 1 / math.sqrt(parameter.shape[1]))
            else:
                parameter.uniform_(0.5, 1.5)
            # Below 2^-17 float16 has coarser steps than bfloat16: multiples of 2^-24.
            parameter.copy_((parameter.bfloat16().float() * 2.0 ** 24).round() * 2.0 ** -24)
    return model, config


def save(model, config, folder):
    """A folder as Hugging Face has it, in bfloat16, with the bundled tokenizer (ids are all that is asked for)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = sorted(model.state_dict().items(), key=lambda item: -item[1].numel())
    files = [tensors[i::FILES] for i in range(FILES)]
    places = {}

    def write(number, members):
        path = folder / f"model-{number + 1:05}-of-{FILES:05}.safetensors"
        header, offset = {}, 0
        for name, tensor in members:
            end = offset + 2 * tensor.numel()
            header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [offset, end]}
            offset = end
            places[name] = path.name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb", buffering=0) as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for _, tensor in members:
                left = memoryview(tensor.bfloat16().view(torch.int16).cpu().numpy()).cast("B")
                while left:
                    left = left[file.write(left):]

    with torch.inference_mode(), concurrent.futures.ThreadPoolExecutor(min(FILES, os.cpu_count())) as pool:
        for done in [pool.submit(write, *item) for item in enumerate(files) if item[1]]:
            done.result()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    shutil.copy(ROOT / "models" / "demo" / "tokenizer.model", folder)


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
    """Normed hidden states, what the head takes: [batch, tokens, hidden] of ids [batch, tokens]."""
    cache = transformers.DynamicCache()
    parts = [model.model(input_ids=part, past_key_values=cache, use_cache=True).last_hidden_state
             for part in ids.split(CHUNK, dim=1)]
    return torch.cat(parts, dim=1)


@dataclasses.dataclass
class Reference:
    """Of some positions, one a row."""

    hidden: torch.Tensor  # [rows, hidden]
    gains: torch.Tensor  # [rows], D / e
    head: torch.Tensor  # [vocabulary, hidden]
    scale: torch.Tensor  # [vocabulary], ‖w_v ⊙ g‖

    @staticmethod
    @torch.inference_mode()
    def of(model, ids):
        """All positions of ids [batch, tokens], sequence after sequence."""
        head = model.lm_head.weight
        scale = (head * model.model.norm.weight).norm(dim=1)
        exact = hidden_states(model, ids).flatten(0, 1)
        sample = torch.randint(0, head.shape[0], (512,), device=exact.device)
        squares = torch.zeros(len(exact), device=exact.device)
        noise = Noise(model)
        for _ in range(NOISE_DRAWS):
            change = (hidden_states(model, ids).flatten(0, 1) - exact) @ head[sample].T / scale[sample]
            squares += change.pow(2).mean(dim=1)
        noise.remove()
        return Reference(exact, (squares / NOISE_DRAWS).sqrt() / NOISE, head, scale)

    def rows(self, indices):
        return dataclasses.replace(self, hidden=self.hidden[indices], gains=self.gains[indices])

    def logits(self):
        return self.hidden @ self.head.T

    def tolerance(self, dtype):
        """[rows, vocabulary]: how far a logit may be off in `dtype`."""
        unit = 6 * ROUNDOFF[dtype] * math.sqrt(ROUNDINGS_PER_LAYER)
        return unit * self.gains[:, None] * self.scale[None]

    @torch.inference_mode()
    def compare_argmax(self, argmax, dtype):
        """(rows whose argmax is another one, those of them beyond the error)."""
        differ = wrong = 0
        for begin in range(0, len(self.hidden), 512):
            part = self.rows(slice(begin, begin + 512))
            values, tolerance = part.logits(), part.tolerance(dtype)
            mine = argmax[begin:begin + 512].long()[:, None]
            best = values.max(dim=1, keepdim=True)
            gap = best.values - values.gather(1, mine)
            allowed = tolerance.gather(1, best.indices) + tolerance.gather(1, mine)
            differ += int((best.indices != mine).sum())
            wrong += int((~(gap <= allowed)).sum())
        return differ, wrong

    @torch.inference_mode()
    def logprobs(self, ids, dtype):
        """(log probabilities of the tokens ids [rows, k], how far each may be off in `dtype`): the logit's tolerance
        and, for the logarithm of the sum, the mean of all."""
        values, allowed = [], []
        for begin in range(0, len(self.hidden), 512):
            part = self.rows(slice(begin, begin + 512))
            mine = ids[begin:begin + 512].long()
            expected, tolerance = part.logits().log_softmax(dim=1), part.tolerance(dtype)
            values.append(expected.gather(1, mine))
            allowed.append(tolerance.gather(1, mine) + (expected.exp() * tolerance).sum(dim=1, keepdim=True))
        return torch.cat(values), torch.cat(allowed)
