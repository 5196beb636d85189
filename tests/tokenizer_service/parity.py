"""Compares the running tokenizer service with transformers' slow LlamaTokenizer; one call is one process's share."""

import codecs
import logging
import os
import random
import warnings

import fuzz_texts
from helpers.protos import load_protos
from tokenizer_process import connect

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
BATCH = 200


def one_per_byte(error):
    """SentencePiece shows each byte that is no character as one U+FFFD, Python one for several."""
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error("one_per_byte", one_per_byte)


def load_reference(folder):
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    from transformers import LlamaTokenizer

    return LlamaTokenizer.from_pretrained(str(folder))


def reference_ids(reference, text, parse_special_tokens):
    """What encode(text, add_special_tokens=False, split_special_tokens=not parse_special_tokens) does, less checks."""
    tokens = reference.tokenize(text, split_special_tokens=not parse_special_tokens)
    return reference.convert_tokens_to_ids(tokens)


def prefixed_text(reference, ids):
    """The exact text of ordinary tokens. A token before them keeps SentencePiece from taking spaces away."""
    if not ids:
        return ""
    neutral = next(i for i in range(reference.vocab_size) if reference.sp_model.id_to_piece(i) == "a")
    return reference.decode([neutral] + ids, spaces_between_special_tokens=False)[1:]


class Reference:
    """The decoding rules of tokenizer_service/tokenizer.h, on top of the pieces that transformers decodes."""

    def __init__(self, folder):
        self.tokenizer = load_reference(folder)
        self.special = set(self.tokenizer.all_special_ids) | {
            i for i in range(self.tokenizer.vocab_size)
            if self.tokenizer.sp_model.is_control(i) or self.tokenizer.sp_model.is_unknown(i)}
        self.special |= {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        self.added = self.tokenizer.added_tokens_decoder
        # Pieces whose name an added token has under another id: transformers takes them for that one.
        names = {token.content for token in self.added.values()}
        self.shadowed = {i for i in range(self.tokenizer.vocab_size) if self.piece(i) in names}
        self.has_prefix = self.tokenizer.legacy or self.tokenizer.add_prefix_space

    def piece(self, token_id):
        return self.tokenizer.sp_model.id_to_piece(token_id) if token_id not in self.added else ""

    def decode(self, ids, keep_special_tokens):
        shown = [i for i in ids if keep_special_tokens or i not in self.special]
        text, run = "", []
        for token_id in shown:
            if token_id in self.added or token_id in self.special or token_id in self.shadowed:
                name = self.added[token_id].content if token_id in self.added else self.piece(token_id)
                if token_id in self.shadowed:
                    name = name.replace("▁", " ")
                text += prefixed_text(self.tokenizer, run) + name
                run = []
            else:
                run.append(token_id)
        text += prefixed_text(self.tokenizer, run)
        strips = self.has_prefix and shown and shown[0] not in self.special and self.piece(shown[0]).startswith("▁")
        return text[1:] if strips else text

    def is_plain(self, ids):
        """Whether transformers' own decode has no rule of its own for these: no added or control token but those with a
        role (around the others it takes spaces away), and no run of spaces at the start (legacy takes two away, the
        other one shows "▁" where the shorter run is no piece)."""
        odd = (self.special | set(self.added)) - set(self.tokenizer.all_special_ids) | self.shadowed
        if odd.intersection(ids):
            return False
        shown = [self.piece(i) for i in ids if i not in self.special]
        if not shown:
            return True
        if not self.tokenizer.legacy:  # a first piece that is none any more without its space keeps its "▁"
            sp_model = self.tokenizer.sp_model
            return "▁" not in shown[0][1:] or sp_model.piece_to_id(shown[0][1:]) != sp_model.unk_id()
        return not shown[0].startswith("▁▁") and not (
            shown[0] == "▁" and len(shown) > 1 and shown[1].startswith("▁"))


def encode_batch(stub, protos, texts):
    request = protos.EncodeRequest()
    for text in texts:
        for parse in (False, True):
            request.inputs.add(text=text.encode(), parse_special_tokens=parse)
    return [list(output.token_ids) for output in stub.Encode(request).outputs]


def fuzz_encode(job):
    """(name, folder, port, seed, count) → the texts whose ids differ, as sentences."""
    name, folder, port, seed, count = job
    reference, stub, protos = Reference(folder), connect(port), load_protos().tokenizer
    rng = random.Random(seed)
    differences = []
    for begin in range(0, count, BATCH):
        texts = [fuzz_texts.text(rng) for _ in range(min(BATCH, count - begin))]
        ids = iter(encode_batch(stub, protos, texts))
        for text in texts:
            for parse in (False, True):
                ours, theirs = next(ids), reference_ids(reference.tokenizer, text, parse)
                if not parse and any(i in reference.special for i in theirs):
                    theirs = expected_without_specials(reference, ours, theirs)
                if ours != theirs:
                    differences.append(f"{name} parse={parse} {text!r}: {ours}, transformers has {theirs}")
    return differences


def expected_without_specials(reference, ours, theirs):
    """Where transformers finds a special token in plain text (a character that is unknown to the model, or a
    user-defined piece), Caravan spells its name out. The unknown token itself stays."""
    sp_model = reference.tokenizer.sp_model
    expected = []
    for token_id in theirs:
        if token_id not in reference.special or token_id == sp_model.unk_id():
            expected.append(token_id)
            continue
        name = reference.added[token_id].content if token_id in reference.added else sp_model.id_to_piece(token_id)
        expected += [sp_model.piece_to_id(character) for character in name]
    return expected


def random_ids(rng, reference):
    size = len(reference.tokenizer)
    bytes_first = next((i for i in range(reference.tokenizer.vocab_size) if reference.tokenizer.sp_model.is_byte(i)), 0)
    ids = []
    for _ in range(rng.randint(0, 24)):
        draw = rng.random()
        if draw < 0.35 and reference.tokenizer.sp_model.is_byte(bytes_first):
            ids.append(bytes_first + rng.randint(0, 255))
        elif draw < 0.5:
            ids += reference_ids(reference.tokenizer, rng.choice(fuzz_texts.CLUSTERS), False)
        elif draw < 0.6:
            ids.append(rng.choice(sorted(reference.special | set(reference.added))))
        else:
            ids.append(rng.randrange(size))
    return ids


def stream(stub, protos, rng, sequences):
    """Decodes all sequences in one session, their appends cut at random and shuffled; the texts."""
    requests, left, texts = [], {}, {}
    for number, (ids, keep, context) in enumerate(sequences):
        opened = protos.DecodeOpen(sequence=number, context_token_ids=ids[:context], keep_special_tokens=keep)
        requests.append(protos.DecodeSessionRequest(open=opened))
        left[number], texts[number] = ids[context:], b""
    while left:
        number = rng.choice(list(left))
        count = rng.randint(0, 5)
        if left[number]:
            append = protos.DecodeAppend(sequence=number, token_ids=left[number][:count])
            requests.append(protos.DecodeSessionRequest(append=append))
            left[number] = left[number][count:]
        else:
            requests.append(protos.DecodeSessionRequest(close=protos.DecodeClose(sequence=number)))
            del left[number]
    for response in stub.DecodeSession(iter(requests)):
        assert response.code == 0, response.message
        response.text.decode("utf-8", "strict")
        texts[response.sequence] += response.text
    return texts


def fuzz_decode(job):
    """(name, folder, port, seed, count) → the ids whose text differs, as sentences."""
    name, folder, port, seed, count = job
    reference, stub, protos = Reference(folder), connect(port), load_protos().tokenizer
    rng = random.Random(seed)
    differences = []
    for begin in range(0, count, BATCH):
        cases = [(random_ids(rng, reference), rng.random() < 0.5) for _ in range(min(BATCH, count - begin))]
        request = protos.DecodeRequest()
        for ids, keep in cases:
            request.inputs.add(token_ids=ids, keep_special_tokens=keep)
        texts = list(stub.Decode(request).texts)
        for (ids, keep), text in zip(cases, texts, strict=True):
            ours, theirs = text.decode("utf-8", "one_per_byte"), reference.decode(ids, keep)
            if not keep and ours == theirs and reference.is_plain(ids):
                theirs = reference.tokenizer.decode(ids, skip_special_tokens=True, spaces_between_special_tokens=False)
            if ours != theirs:
                differences.append(f"{name} keep={keep} {ids}: {ours!r}, transformers has {theirs!r}")
        whole = stream(stub, protos, rng, [(ids, keep, 0) for ids, keep in cases])
        for number, text in enumerate(texts):
            if whole[number].decode() != text.decode("utf-8", "replace"):
                differences.append(f"{name} streamed {cases[number]}: {whole[number]!r}, whole {text!r}")
    return differences
