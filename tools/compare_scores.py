#!/usr/bin/env python3
"""Check what examples/score wrote against transformers on the same tensors, item by item.

    examples/score MODEL_DIR FILES... --limit 10 --items items.jsonl
    python3 tools/compare_scores.py MODEL_DIR --items items.jsonl

    examples/score MODEL_DIR --perplexity text.txt --json scores.json
    python3 tools/compare_scores.py MODEL_DIR --scores scores.json

Needs torch and transformers >= 4.56. Every item is read again from the file and line that its "source" names (or from
a file of that name in --data DIR), encoded with the package tokenizers by the rule of lm-evaluation-harness, and every
choice is run as one whole sequence in float32; nothing is shared with the C++ program but the weights and the text.

  choice items   the same choice taken by sum and by sum per byte on at least 99.5 % of the items, and every
                 log-likelihood within --tolerance, relative to max(1, its size); default 2^-8, the rounding of bf16
  generation     the same text on at least 90 % (greedy answers part where two logits are nearly equal)
  perplexity     the log-likelihood of the text within --tolerance

The exit code is 1 when one of these fails.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch
import transformers


class Model:
    def __init__(self, directory, device):
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(str(directory))
        self.model = transformers.AutoModelForCausalLM.from_pretrained(str(directory), dtype=torch.float32).eval().to(device)
        first = self.tokenizer.bos_token_id
        self.prefix = self.tokenizer.eos_token_id if first is None else first
        names = ["<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>"]
        vocabulary = self.tokenizer.get_vocab()
        self.stops = {vocabulary[name] for name in names if name in vocabulary} | {self.tokenizer.eos_token_id}
        self.tokens = 0

    def encode(self, text):
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def log_probabilities(self, ids, rows):
        """Log-softmax, in double, of the last `rows` positions."""
        self.tokens += len(ids)
        logits = self.model(torch.tensor([ids], device=self.model.device), use_cache=False, logits_to_keep=rows).logits[0]
        return torch.log_softmax(logits.double(), -1)

    def choices(self, context, choices):
        """The sum of each choice; choices of one token have one sequence."""
        stripped = context.rstrip()
        context_ids = self.encode(stripped) if stripped else []
        start = context_ids or [self.prefix]
        known = {}
        sums = []
        for choice in choices:
            ids = self.encode(context + choice)[len(context_ids) :]
            fed = tuple(start + ids[:-1])
            if (fed, len(ids)) not in known:
                known[fed, len(ids)] = self.log_probabilities(list(fed), len(ids))
            table = known[fed, len(ids)]
            sums.append(float(sum(table[row, token] for row, token in enumerate(ids))))
        return sums

    def generate(self, context, most):
        ids = self.encode(context) if context else [self.prefix]
        out = []
        result = self.model(torch.tensor([ids], device=self.model.device), use_cache=True, logits_to_keep=1)
        while len(out) < most:
            token = int(result.logits[0, -1].argmax())
            if token in self.stops:
                break
            out.append(token)
            text = self.tokenizer.decode(out, clean_up_tokenization_spaces=False)
            if "\n\n" in text or len(out) == most:
                break
            result = self.model(torch.tensor([[token]], device=self.model.device), past_key_values=result.past_key_values, use_cache=True)
        return self.tokenizer.decode(out, clean_up_tokenization_spaces=False).split("\n\n")[0]

    def document(self, text, window, stride):
        ids = [self.prefix] + self.encode(text)
        total, counted, begin = 0.0, 0, 0
        while counted < len(ids) - 1:
            end = min(begin + window, len(ids) - 1)
            table = self.log_probabilities(ids[begin:end], end - counted)
            total += sum(float(table[row, ids[counted + row + 1]]) for row in range(end - counted))
            counted, begin = end, begin + stride
        return total, len(ids) - 1


def only_largest(values):
    best = max(values)
    return values.index(best) if values.count(best) == 1 else None


def relative(ours, theirs):
    return abs(ours - theirs) / max(1.0, abs(theirs))


def main():
    parser = argparse.ArgumentParser(description="Check the results of examples/score against transformers.")
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--items", type=Path, metavar="FILE", help="what score --items wrote")
    parser.add_argument("--scores", type=Path, metavar="FILE", help="what score --json wrote, for its perplexities")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the question files are, if not at their paths")
    parser.add_argument("--limit", type=int, default=0, help="items per task at most")
    parser.add_argument("--tolerance", type=float, default=2.0**-8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="of PyTorch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = Model(options.model, options.device)
    passed = True
    lines = {}

    def source_line(source):
        name, number = source.rsplit(":", 1)
        path = options.data / Path(name).name if options.data else Path(name)
        if path not in lines:
            lines[path] = path.read_text(encoding="utf-8").split("\n")
        return json.loads(lines[path][int(number) - 1])

    def path_of(source):
        return options.data / Path(source).name if options.data else Path(source)

    start = time.time()
    seen = {}
    tasks = set()
    same = same_by_byte = choices = texts = same_texts = 0
    worst, differences = (0.0, None), []
    if options.items:
        for line in options.items.read_text(encoding="utf-8").splitlines():
            ours = json.loads(line)
            seen[ours["task"]] = seen.get(ours["task"], 0) + 1
            if options.limit and seen[ours["task"]] > options.limit:
                continue
            item = source_line(ours["source"])
            if "choices" not in item:
                texts += 1
                text = model.generate(item["context"], item["max_new"])
                same_texts += text == ours["text"]
                if text != ours["text"]:
                    print(f"{ours['source']}: {ours['text']!r} here, {text!r} there", flush=True)
                continue
            choices += 1
            tasks.add(ours["task"])
            sums = model.choices(item["context"], item["choices"])
            per_byte = [total / len(choice.encode()) for total, choice in zip(sums, item["choices"])]
            same += only_largest(sums) == ours["chosen"]
            same_by_byte += only_largest(per_byte) == ours["chosen_by_byte"]
            if only_largest(sums) != ours["chosen"]:
                print(f"{ours['source']}: {ours['loglikelihood']} here, {sums} there", flush=True)
            for our, their in zip(ours["loglikelihood"], sums, strict=True):
                differences.append(relative(our, their))
                worst = max(worst, (differences[-1], ours["source"]))
            if choices % 50 == 0:
                print(f"{choices} items, {model.tokens} tokens, {time.time() - start:.0f} s", flush=True)
    if choices:
        root = math.sqrt(sum(d * d for d in differences) / len(differences))
        print(
            f"choice: {choices} items of {len(tasks)} tasks, the same choice on {same} (per byte {same_by_byte}); "
            f"{len(differences)} log-likelihoods, relative difference at most {worst[0]:.2e} ({worst[1]}), rms {root:.2e}"
        )
        passed &= min(same, same_by_byte) >= 0.995 * choices and worst[0] <= options.tolerance
    if texts:
        print(f"generation: {same_texts} of {texts} texts are the same")
        passed &= same_texts >= 0.9 * texts
    if options.scores:
        for ours in json.loads(options.scores.read_text(encoding="utf-8"))["perplexity"]:
            with open(path_of(ours["source"]), encoding="utf-8", newline="") as file:
                total, tokens = model.document(file.read(), ours["window"], ours["stride"])
            difference = relative(ours["loglikelihood"], total)
            print(
                f"{ours['source']}: {tokens} tokens here and {ours['tokens']} there; perplexity "
                f"{math.exp(-total / tokens):.5f} in transformers, {ours['per_token']:.5f} here; "
                f"log-likelihood differs by {difference:.2e} of itself"
            )
            passed &= tokens == ours["tokens"] and difference <= options.tolerance
    print("passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    with torch.inference_mode():
        sys.exit(main())
