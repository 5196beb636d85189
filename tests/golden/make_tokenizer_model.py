"""Trains the two small SentencePiece models under tests/golden/tokenizer.

    python tests/golden/make_tokenizer_model.py

The text is generated here from a fixed seed. `llama.model` is trained with the flags of LLaMA's own (BPE, byte
fallback, digits apart, identity normalization, dummy prefix); `unknown.model` has no byte fallback, so that characters
outside of its alphabet become <unk>, and holds user-defined and control symbols.
Needs sentencepiece from PyPI (tests/requirements.txt).
"""

import pathlib
import random
import tempfile

import sentencepiece

FOLDER = pathlib.Path(__file__).parent / "tokenizer"

WORDS = """the a of and to in is was he she it they we you on at by with from for but not all this that there their
river mountain lantern caravan tokens stream worker gateway engine block shard kernel garden window morning evening
little great quiet sudden golden silver hungry gentle clever brave walked found opened carried whispered answered
remembered gathered followed trusted builder baker sailor teacher keeper dragon rabbit sparrow forest harbour castle
market bridge letter number answer question because before after under over through between against another every
nothing something themselves understanding extraordinary internationalization counterrevolutionary straightforward
don't can't it's I'm we'll o'clock Straße naïve café Zürich garçon mañana señor übermäßig Ærøskøbing fjörður
привет мир дорога книга утро вечер καλημέρα κόσμος θάλασσα שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดี 世界 你好 東京
日本語 こんにちは ありがとう 한국어 안녕하세요 세계""".split()
SYMBOLS = ["->", "==", "!=", "<=", ">=", "&&", "||", "::", "//", "/*", "*/", "{", "}", "()", "[]", ";", "0x", "++", "…",
           "“", "”", "–", "—", "€", "£", "°", "±", "×", "→", "∑", "√", "😀", "🚀", "❤️", "👍"]


def sentence(rng):
    words = []
    for _ in range(rng.randint(3, 18)):
        draw = rng.random()
        if draw < 0.80:
            word = rng.choice(WORDS)
            if rng.random() < 0.2:
                word = word.capitalize()
            if rng.random() < 0.15:
                word += rng.choice(["ing", "ed", "s", "ly", "er", "ness", "tion"])
        elif draw < 0.88:
            word = str(rng.randint(0, 10 ** rng.randint(1, 7)))
        elif draw < 0.96:
            word = rng.choice(SYMBOLS)
        else:
            word = rng.choice(WORDS) + "_" + rng.choice(WORDS) + "(" + rng.choice(WORDS) + ")"
        words.append(word + rng.choice(["", "", "", "", ",", ".", ":", "?", "!"]))
    line = ""
    for word in words:
        line += word + rng.choice([" "] * 18 + ["  ", "    "])
    return " " * rng.choice([0, 0, 0, 0, 2, 4, 8]) + line.rstrip()


def train(name, lines, **flags):
    with tempfile.TemporaryDirectory() as folder:
        text = pathlib.Path(folder) / "text.txt"
        text.write_text("\n".join(lines), encoding="utf-8")
        prefix = pathlib.Path(folder) / name
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=str(prefix), model_type="bpe", num_threads=1,
            normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True,
            allow_whitespace_only_pieces=True, split_digits=True, minloglevel=1, **flags)
        model = prefix.with_suffix(".model").read_bytes()
    (FOLDER / f"{name}.model").write_bytes(model)
    print(f"{name}.model: {len(model)} bytes")


def main():
    rng = random.Random(20240229)
    lines = [sentence(rng) for _ in range(12000)]
    train("llama", lines, vocab_size=1600, byte_fallback=True, character_coverage=0.9995)
    train("unknown", lines, vocab_size=500, byte_fallback=False, character_coverage=0.98,
          user_defined_symbols=["<sep>", "##"], control_symbols=["<ctl>"])


if __name__ == "__main__":
    main()
