#!/usr/bin/env python3
"""Check a directory made by get_smollm2.py against PyTorch and transformers, and write reference values.

    python3 tools/compare_smollm2.py MODEL_DIR --out OUT_DIR [--gguf FILE] [--text FILE] [--time]

Needs torch, transformers >= 4.56 and tokenizers (they bring numpy, safetensors and regex), and gguf and accelerate
for --gguf:

    python3 -m venv ENV && ENV/bin/pip install torch transformers tokenizers gguf accelerate

Checks, each printed with its figures; the exit code is 1 when one fails:
  tokenizer    1,000 texts through the package tokenizers; with --gguf also against a plain Python BPE that reads only
               the GGUF file
  weights      with --gguf: against the weights that transformers itself reads from the GGUF file (its own
               dequantisation and its own un-permutation)
  logits       float32 against float64
  greedy       the answer to "What is gravity?" is printed, to be read
  perplexity   with --text: of the first 2,000 tokens, and with the rows of the query and key projections left in the
               order of the GGUF file, which must be much worse

Written to OUT_DIR:
  reference_logits.safetensors   promptN.input_ids [n] int64 and promptN.logits [n, vocab] float32 for N = 0, 1, 2;
                                 prompt0.embedding [n, d], prompt0.layer.I [n, d] (the output of decoder layer I) and
                                 prompt0.final_norm [n, d] float32; the SHA-256 of model.safetensors is in the metadata
  greedy.json                    per prompt: input_ids, 64 generated_ids (not stopped at the end token), and for each
                                 step the best logit and its margin over the second
  tokens_1000.jsonl              {"text", "ids", "decoded"} per line
"""

import argparse
import hashlib
import json
import random
import sys
import time
from pathlib import Path

import numpy
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer

GENERATED = 64
PERPLEXITY_TOKENS = 2000
TEXTS = 1000

PROSE = (
    "The lighthouse keeper climbed the stairs every evening at dusk, carrying a lamp and a small book. On the night "
    "of the great storm he saw something strange far out on the water, and"
)
QUESTION = "What is gravity?"
CODE = "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n\nprint(fibonacci(10))  #"


class Report:
    """Prints the checks and remembers whether one failed."""

    def __init__(self):
        self.failed = []

    def check(self, name, passed, text):
        print(f"[{'ok' if passed else 'FAILED'}] {name}: {text}", flush=True)
        if not passed:
            self.failed.append(name)

    def note(self, name, text):
        print(f"[--] {name}: {text}", flush=True)


# ---------------------------------------------------------------- tokenizer


def sample_texts(count):
    """Texts that exercise digits, white space, contractions, scripts, bytes without a token and special tokens."""
    generator = random.Random(2024)
    fixed = [
        "", " ", "  ", "\n", "\n\n \n", "\t\tx", " \u00a0 ", "a\r\nb\r\n", "0", "007", "1234567890", "3.14159", "12,345.678",
        "2024-02-29T23:59:59Z", "x1y22z333", " 1 2  3", "v1.2.3-rc4", "½ ² Ⅷ ٣٤ 〇 ೬ ①", "10²³", "no.5", "1e-5", "0x7fFF",
        "I'll we've don't 'S 's they're I'd I'm", "it’s", "HELLO World", "naïve café", "日本語の文章 123", "Привет, мир 42!",
        "مرحبا ١٢٣", "नमस्ते ५", "👩‍👩‍👧‍👦 🇫🇷 👍🏽", "e\u0301", "\u200b\u200d", "\u0004\u0006\u0013\u0014\u0016\u001d", "a\u0004b",
        "\U00040000", "\U00080000 x", "\U0010ffff", "\x00", "\x7f", "\ufeff", "\ufffd", "<|im_start|>user\n5<|im_end|>\n",
        "<|endoftext|>", "a<|im_end|>b", "<|im_end", "<repo_name>x<file_sep>1", " <|im_start|> ", "<|im_end|><|im_end|>",
        "\u2028\u2029", "\u3000全角１２３", "!!!???...", "a_b__c", "#include <vector>\n\tint x[10] = {0};", "   leading", "trailing   ",
    ]  # fmt: skip
    pieces = [
        "the", "Gravity", "token", "izer", "année", "Straße", "数学", "слово", "can't", "we'LL", "<|im_end|>", "🙂", "\u00bd",
        "\u2167", "\u0663", "\n", "\n\n", "\t", "  ", "    ", "...", "--", "(", ")", "%", "$", "€", "=", "\u0016", "\u00a0",
    ]  # fmt: skip
    texts = list(fixed)
    while len(texts) < count:
        parts = []
        for _ in range(generator.randint(1, 14)):
            draw = generator.random()
            if draw < 0.35:
                parts.append(str(generator.randint(0, 10 ** generator.randint(1, 12))))
            elif draw < 0.42:
                parts.append(f"{generator.uniform(-1e4, 1e4):.{generator.randint(1, 6)}f}")
            elif draw < 0.47:
                parts.append(
                    chr(
                        generator.choice((0x80, 0x250, 0x600, 0x900, 0x3040, 0x4E00, 0x1F300))
                        + generator.randrange(128)
                    )
                )
            else:
                parts.append(generator.choice(pieces))
            if generator.random() < 0.6:
                parts.append(" ")
        texts.append("".join(parts))
    return texts


def byte_alphabet():
    """byte -> character of the byte-level alphabet of GPT-2."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + index) for index, byte in enumerate(hidden)}


class PlainTokenizer:
    """Byte-level BPE in plain Python from the lists of a GGUF file, to compare with the package tokenizers."""

    def __init__(self, tokens, types, merges):
        import regex

        self.ids = {token: index for index, token in enumerate(tokens)}
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        self.alphabet = byte_alphabet()
        special = [token for token, kind in zip(tokens, types) if kind == 3]
        self.special = set(special)
        self.split_special = regex.compile("(" + "|".join(regex.escape(token) for token in special) + ")")
        self.split_digits = regex.compile(r"(\p{N})")
        self.split_words = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

    def word(self, text):
        symbols = [self.alphabet[byte] for byte in text.encode("utf-8")]
        symbols = [symbol for symbol in symbols if symbol in self.ids]
        while len(symbols) > 1:
            ranked = [(self.ranks.get(pair, len(self.ranks)), at) for at, pair in enumerate(zip(symbols, symbols[1:]))]
            rank, at = min(ranked)
            if rank == len(self.ranks):
                break
            symbols[at : at + 2] = ["".join(symbols[at : at + 2])]
        return [self.ids[symbol] for symbol in symbols]

    def encode(self, text):
        ids = []
        for part in self.split_special.split(text):
            if part in self.special:
                ids.append(self.ids[part])
                continue
            for run in self.split_digits.split(part):
                for word in self.split_words.findall(run):
                    ids.extend(self.word(word))
        return ids


def check_tokenizer(report, directory, gguf, out):
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    texts = sample_texts(TEXTS)
    encoded = [tokenizer.encode(text).ids for text in texts]
    with open(out / "tokens_1000.jsonl", "w", encoding="utf-8") as file:
        for text, ids in zip(texts, encoded):
            entry = {"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)}
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    absent = {byte for byte, character in byte_alphabet().items() if tokenizer.token_to_id(character) is None}
    different = []
    shortened = 0
    for text, ids in zip(texts, encoded):
        raw = text.encode("utf-8")
        kept = bytes(byte for byte in raw if byte not in absent)
        shortened += kept != raw
        if tokenizer.decode(ids, skip_special_tokens=False) != kept.decode("utf-8", errors="replace"):
            different.append(text)
    digits = sum(any(character.isnumeric() for character in text) for text in texts)
    report.check(
        "tokenizer round trip",
        not different,
        f"{len(texts)} texts, {digits} with digits, {sum(map(len, encoded)):,} ids; {len(different)} do not come back {different[:3]!r}; "
        f"{len(absent)} bytes have no token, {shortened} texts lose some",
    )
    wrapped = transformers.AutoTokenizer.from_pretrained(str(directory))
    unequal = [text for text, ids in zip(texts, encoded) if wrapped(text, add_special_tokens=True)["input_ids"] != ids]
    report.check(
        "tokenizer in transformers",
        not unequal,
        f"{type(wrapped).__name__}: {len(unequal)} of {len(texts)} differ {unequal[:3]!r}",
    )

    if gguf is None:
        report.note("tokenizer against GGUF", "skipped, no --gguf")
        return wrapped
    from gguf import GGUFReader

    fields = GGUFReader(str(gguf)).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    wrong = [token for index, token in enumerate(tokens) if vocabulary.get(token) != index]
    report.check(
        "vocabulary against GGUF",
        not wrong and len(vocabulary) == len(tokens),
        f"{len(tokens)} tokens, {len(wrong)} differ {wrong[:3]!r}",
    )
    plain = PlainTokenizer(
        tokens, fields["tokenizer.ggml.token_type"].contents(), fields["tokenizer.ggml.merges"].contents()
    )
    unequal = [text for text, ids in zip(texts, encoded) if plain.encode(text) != ids]
    report.check("ids against plain BPE", not unequal, f"{len(unequal)} of {len(texts)} texts differ {unequal[:3]!r}")
    return wrapped


# ---------------------------------------------------------------- model


def load_model(directory, dtype, attention="eager", **more):
    model = transformers.LlamaForCausalLM.from_pretrained(
        str(directory), dtype=dtype, attn_implementation=attention, **more
    )
    return model.eval()


def check_weights(report, model, gguf):
    """Against the reading of the GGUF file by transformers, which shares no code with get_smollm2.py but the
    dequantisation of the package gguf."""
    other = load_model(gguf.parent, torch.float32, gguf_file=gguf.name).state_dict()
    own = model.state_dict()
    wrong = []
    exact = 0
    for name, value in own.items():
        if name not in other or other[name].shape != value.shape:
            wrong.append(name)
            continue
        expected = other[name].to(torch.bfloat16).float()
        exact += torch.equal(value, expected)
        if not torch.equal(value, expected):
            wrong.append(name)
    report.check(
        "weights against transformers' GGUF reader",
        not wrong and set(own) == set(other),
        f"{exact} of {len(own)} tensors are bit-equal to its float32 values rounded to bfloat16; different: {wrong[:3]!r}",
    )
    return other


def traced_forward(model, ids):
    """Logits [n, vocab] and the hidden states by name, of one prompt."""
    states = {}
    handles = []

    def keep(name):
        def hook(_module, _inputs, output):
            states[name] = (output[0] if isinstance(output, tuple) else output).detach().reshape(len(ids), -1).clone()

        return hook

    handles.append(model.model.embed_tokens.register_forward_hook(keep("embedding")))
    for index, layer in enumerate(model.model.layers):
        handles.append(layer.register_forward_hook(keep(f"layer.{index}")))
    handles.append(model.model.norm.register_forward_hook(keep("final_norm")))
    try:
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return logits, states


def greedy(model, ids, count):
    """Ids, best logits and margins of `count` greedy steps."""
    generated, best, margins = [], [], []
    result = model(torch.tensor([ids]), use_cache=True)
    while True:
        values, indices = torch.topk(result.logits[0, -1].float(), 2)
        generated.append(int(indices[0]))
        best.append(float(values[0]))
        margins.append(float(values[0] - values[1]))
        if len(generated) == count:
            return generated, best, margins
        result = model(torch.tensor([[generated[-1]]]), past_key_values=result.past_key_values, use_cache=True)


def perplexity(model, ids):
    logits = model(torch.tensor([ids]), use_cache=False).logits[0, :-1]
    return float(torch.exp(torch.nn.functional.cross_entropy(logits.float(), torch.tensor(ids[1:]))))


def permute_rows(weight, heads):
    """The row order in which llama.cpp stores query and key projections."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape).contiguous()


def check_perplexity(report, model, tokenizer, text):
    ids = tokenizer(text.read_text(encoding="utf-8")[: 20 * PERPLEXITY_TOKENS], add_special_tokens=False)["input_ids"][
        :PERPLEXITY_TOKENS
    ]
    right = perplexity(model, ids)
    config = model.config
    saved = {}
    for layer, block in enumerate(model.model.layers):
        for name, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            linear = getattr(block.self_attn, name)
            saved[layer, name] = linear.weight.data
            linear.weight.data = permute_rows(linear.weight.data, heads)
    wrong = perplexity(model, ids)
    for (layer, name), weight in saved.items():
        getattr(model.model.layers[layer].self_attn, name).weight.data = weight
    report.check(
        "perplexity", 5 < right < 40, f"{right:.3f} over the first {len(ids)} tokens of {text.name}, in one window"
    )
    report.check(
        "perplexity with permuted rows", wrong > 3 * right, f"{wrong:.1f} when the row order of the GGUF file is kept"
    )


def write_reference(report, model, tokenizer, directory, out):
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], tokenize=False, add_generation_prompt=True
    )
    prompts = [("prose", PROSE), ("chat", chat), ("code", CODE)]
    double = load_model(directory, torch.float64)
    tensors = {}
    entries = []
    for number, (name, text) in enumerate(prompts):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        logits, states = traced_forward(model, ids)
        tensors[f"prompt{number}.input_ids"] = torch.tensor(ids, dtype=torch.int64)
        tensors[f"prompt{number}.logits"] = logits.contiguous()
        exact, exact_states = traced_forward(double, ids)
        error = float((logits - exact).abs().max())
        report.check(
            f"logits of {name}",
            error < 1e-2 and torch.equal(logits.argmax(-1), exact.argmax(-1)),
            f"{len(ids)} positions, largest {float(exact.abs().max()):.2f}; float32 against float64: largest difference {error:.2e}",
        )
        if number == 0:
            tensors.update({f"prompt0.{key}": value for key, value in states.items()})
            worst = max(
                float((value - exact_states[key]).abs().max() / exact_states[key].abs().max())
                for key, value in states.items()
            )
            report.check(
                "hidden states",
                worst < 1e-4,
                f"{len(states)} of them; float32 against float64: largest difference {worst:.1e} of the largest value",
            )
        generated, best, margins = greedy(model, ids, GENERATED)
        same = greedy(double, ids, GENERATED)[0] == generated
        least = int(numpy.argmin(margins))
        report.check(
            f"greedy of {name}",
            same,
            f"same {GENERATED} ids in float64: {same}; least margin {margins[least]:.4f} at step {least}",
        )
        answer = tokenizer.decode(generated, skip_special_tokens=False)
        print("    " + answer.replace("\n", "\n    "), flush=True)
        entries.append(
            {
                "name": name,
                "text": text,
                "input_ids": ids,
                "generated_ids": generated,
                "generated_text": answer,
                "best_logits": best,
                "margins": margins,
            }
        )
    digest = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    about = {
        "model_sha256": digest,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "compute": "float32",
    }
    save_file(tensors, str(out / "reference_logits.safetensors"), metadata=about)
    (out / "greedy.json").write_text(
        json.dumps(about | {"prompts": entries}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


def time_model(report, directory, threads):
    generator = random.Random(1)
    prompt = [generator.randrange(17, 49152) for _ in range(512)]
    for dtype in (torch.float32, torch.bfloat16):
        model = load_model(directory, dtype, "sdpa")
        greedy(model, prompt[:16], 4)
        prefill, decode = [], []
        for _ in range(3):
            start = time.perf_counter()
            model(torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
            prefill.append(len(prompt) / (time.perf_counter() - start))
            result = model(torch.tensor([prompt[:16]]), use_cache=True)
            start = time.perf_counter()
            for token in prompt[:48]:
                result = model(torch.tensor([[token]]), past_key_values=result.past_key_values, use_cache=True)
            decode.append(48 / (time.perf_counter() - start))
        report.note(
            f"speed, {str(dtype).removeprefix('torch.')}",
            f"{threads} threads: prefill of 512 tokens {max(prefill):.0f} tokens/s, decode after 16 tokens {max(decode):.1f} tokens/s (best of 3; "
            f"slowest {min(prefill):.0f} and {min(decode):.1f})",
        )


def main():
    parser = argparse.ArgumentParser(description="Check a directory made by get_smollm2.py and write reference values.")
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the reference files go")
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="the GGUF file that the directory was made from")
    parser.add_argument("--text", type=Path, metavar="FILE", help="English text for the perplexity")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--time", action="store_true", help="also measure the speed of PyTorch")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {options.threads} threads", flush=True)

    report = Report()
    with torch.inference_mode():
        tokenizer = check_tokenizer(report, options.model, options.gguf, options.out)
        model = load_model(options.model, torch.float32)
        if options.gguf is not None:
            check_weights(report, model, options.gguf)
        write_reference(report, model, tokenizer, options.model, options.out)
        if options.text is not None:
            check_perplexity(report, model, tokenizer, options.text)
        if options.time:
            time_model(report, options.model, options.threads)
    if report.failed:
        print(f"{len(report.failed)} checks failed: {', '.join(report.failed)}", flush=True)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
