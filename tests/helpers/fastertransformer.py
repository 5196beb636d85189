"""FasterTransformer's LLaMA decoding in plain NumPy, step by step: greedy and beam search exactly, and for sampling the
distribution that each token is drawn from.

The order of a step: bad words are banned, logits are divided by the temperature, penalized, the end token is banned
before min_length; then tokens are chosen, and rows end at the end token, a stop sequence or their length.
"""

import dataclasses

import numpy as np

# Cumulative log probability of the beams that are no beams yet, so that the first step takes all from the first.
NO_BEAM = -1e20


@dataclasses.dataclass
class Parameters:
    max_tokens: int = 16
    end_id: int = 2
    beam_width: int = 1
    length_penalty: float = 0.0
    diversity_rate: float = 0.0
    temperature: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0   # additive, on every id of prompt and output
    min_length: int = 0
    bad_words: list = dataclasses.field(default_factory=list)
    stop_words: list = dataclasses.field(default_factory=list)
    top_k: int = 0
    top_p: float = 0.0
    top_p_decay: float = 1.0
    top_p_min: float = 1e-6
    top_p_reset_id: int = -1


def ends_in(tokens, words):
    return any(len(word) <= len(tokens) and list(tokens[len(tokens) - len(word):]) == list(word) for word in words)


def process(logits, tokens, prompt_length, parameters):
    """One row's logits after everything that comes before the choice."""
    logits = logits.copy()
    for word in parameters.bad_words:
        if ends_in(tokens, [word[:-1]]):
            logits[word[-1]] = -np.inf
    if parameters.temperature != 1.0:
        logits /= parameters.temperature + 1e-6
    for token in set(tokens):
        if parameters.repetition_penalty != 1.0:
            logits[token] *= parameters.repetition_penalty if logits[token] < 0 else 1 / parameters.repetition_penalty
        logits[token] -= parameters.presence_penalty
    if len(tokens) - prompt_length < parameters.min_length:
        logits[parameters.end_id] = -np.inf
    return logits


def log_softmax(logits):
    shifted = logits - np.max(logits)
    return shifted - np.log(np.sum(np.exp(shifted)))


def greedy(model, prompt, parameters):
    """Token ids and log probabilities of the output, the end token included."""
    cache, tokens, logprobs = model.new_cache(), list(prompt), []
    new = tokens
    while len(logprobs) < parameters.max_tokens:
        row = process(model.forward([new], cache)[0], tokens, len(prompt), parameters)
        token = int(np.argmax(row))
        logprobs.append(log_softmax(row)[token])
        tokens.append(token)
        new = [token]
        if token == parameters.end_id or ends_in(tokens, parameters.stop_words):
            break
    return tokens[len(prompt):], logprobs


@dataclasses.dataclass
class Beam:
    tokens: list
    logprobs: list
    cumulative: float
    finished: bool = False

    def length(self):
        return len(self.tokens)


def offers_of(beam, row_logits, prompt_length, parameters):
    """(cumulative, length, token or None, log probability) of a beam's best continuations, best first."""
    width = parameters.beam_width
    if beam.finished:
        return [(beam.cumulative, beam.length(), None, 0.0)]
    logprobs = log_softmax(process(row_logits, beam.tokens, prompt_length, parameters))
    best = np.argsort(-logprobs, kind="stable")[:width]
    return [(beam.cumulative + logprobs[token], beam.length() + 1, int(token), logprobs[token]) for token in best]


def score_of(cumulative, length, place, parameters):
    if parameters.length_penalty != 0 and length != 1:
        cumulative /= length ** parameters.length_penalty
    return cumulative + parameters.diversity_rate * place


def beam_search(model, prompt, parameters):
    """The beams, best first, as the last step left them."""
    width = parameters.beam_width
    cache = model.new_cache()
    logits = np.repeat(model.forward([prompt], cache), width, axis=0)
    cache.select([0] * width)
    beams = [Beam(list(prompt), [], 0.0 if i == 0 else NO_BEAM) for i in range(width)]
    for step in range(parameters.max_tokens):
        flat = []
        for parent, beam in enumerate(beams):
            for place, offer in enumerate(offers_of(beam, logits[parent], len(prompt), parameters)):
                flat.append((score_of(offer[0], offer[1], place, parameters), parent, offer))
        flat.sort(key=lambda entry: -entry[0])
        chosen, parents = [], []
        for _, parent, (cumulative, _, token, logprob) in flat[:width]:
            parents.append(parent)
            beam = beams[parent]
            if token is None:
                chosen.append(beam)
                continue
            tokens = beam.tokens + [token]
            finished = token == parameters.end_id or ends_in(tokens, parameters.stop_words)
            chosen.append(Beam(tokens, beam.logprobs + [logprob], cumulative, finished))
        beams = chosen
        if all(beam.finished for beam in beams) or step + 1 == parameters.max_tokens:
            break
        cache.select(parents)
        logits = model.forward([[beam.tokens[-1]] for beam in beams], cache)
    return beams


def top_p_after(parameters, output):
    """The top_p that the token behind `output` is drawn with."""
    p = parameters.top_p
    for token in output:
        if token == parameters.top_p_reset_id:
            p = parameters.top_p
        else:
            p = max(p * parameters.top_p_decay, parameters.top_p_min)
    return p


def distribution(logits, tokens, prompt_length, parameters):
    """The probabilities that the next token is drawn with."""
    row = process(logits, tokens, prompt_length, parameters)
    probabilities = np.exp(log_softmax(row))
    order = np.argsort(-probabilities, kind="stable")
    if parameters.top_k > 0:
        order = order[:parameters.top_k]
        p = parameters.top_p if parameters.top_p > 0 else 1.0
        target = p * probabilities[order].sum()
    else:
        target = top_p_after(parameters, tokens[prompt_length:])
    running = np.cumsum(probabilities[order])
    kept = order[:int(np.searchsorted(running, target, side="left")) + 1]
    result = np.zeros_like(probabilities)
    result[kept] = probabilities[kept] / probabilities[kept].sum()
    return result
