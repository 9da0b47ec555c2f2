#!/usr/bin/env python3
"""Compares decoders with Hugging Face's implementation.

    pip install numpy safetensors torch transformers
    cargo build --release && cargo build --release -p whit-text --example logits
    python convert/proof/decoders.py [--only REGEX] [--markdown FILE.md] [--json FILE.json]

Makes a small model of each architecture and of each way of stretching rotary positions from a seed, saves it with
save_pretrained, converts it, and compares the logits behind every token of several prompts, computed at once, in pieces, and
token by token: the largest difference over the range of the logits. Whit keeps keys and values in f16, so they are
rounded to it in `transformers`, too; what is left is f32 (mark: 1e-4). Each model is converted a second time from a config.json as older versions of `transformers` wrote it, with
`rope_theta` and `rope_scaling`. Exits with 1 when a model misses.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np

MAX_RELATIVE_ERROR = 1e-4
SEED = 8
VOCABULARY = 99
POSITIONS = 192
# Tokens of the prompts; the longest ones leave windows and original lengths behind.
PROMPTS = [1, 9, 40, 150]
# Tokens of a piece: the whole prompt, some, one.
PIECES = [192, 7, 1]

SMALL = dict(vocab_size=VOCABULARY, hidden_size=48, num_hidden_layers=4, num_attention_heads=4,
             num_key_value_heads=2, intermediate_size=80, max_position_embeddings=POSITIONS,
             bos_token_id=1, eos_token_id=2, pad_token_id=0)
# Channels of a head in SMALL that turn, by pairs.
PAIRS = 6


def rope(kind, **more):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=10000.0, **more))


def longrope(original, pairs=PAIRS, **more):
    short = [1.0 + 0.05 * pair for pair in range(pairs)]
    long = [1.0 + 0.9 * pair for pair in range(pairs)]
    return dict(original_max_position_embeddings=original, **rope(
        "longrope", short_factor=short, long_factor=long, original_max_position_embeddings=original, **more))


def models():
    """Name, class, configuration, and tokens that prompts have at least: a file has room for long texts or for short ones,
    and its LongRoPE factors are those of that length, where `transformers` goes by the text's."""
    import transformers as t

    llama = lambda **more: (t.LlamaForCausalLM, t.LlamaConfig(**{**SMALL, **more}))
    yield "llama", *llama(), 0
    yield "llama, tied embeddings", *llama(tie_word_embeddings=True), 0
    yield "llama, biases, head of 20", *llama(attention_bias=True, mlp_bias=True, head_dim=20), 0
    yield "llama, all heads, relu", *llama(num_key_value_heads=4, hidden_act="relu", rms_norm_eps=1e-4), 0
    yield "llama, one key-value head", *llama(num_key_value_heads=1), 0
    yield "llama, theta", *llama(rope_parameters=dict(rope_type="default", rope_theta=500.0)), 0
    yield "llama, linear", *llama(**rope("linear", factor=4.0)), 0
    yield "llama, dynamic", *llama(**rope("dynamic", factor=4.0)), 0
    llama3 = rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
    yield "llama, llama3", *llama(**llama3), 0
    yarn = dict(factor=4.0, original_max_position_embeddings=48)
    yield "llama, yarn", *llama(**rope("yarn", **yarn)), 0
    yield "llama, yarn, betas", *llama(**rope("yarn", **yarn, beta_fast=8.0, beta_slow=0.5, attention_factor=0.7)), 0
    yield "llama, yarn, mscale", *llama(**rope("yarn", **yarn, mscale=1.0, mscale_all_dim=0.6)), 0
    yield "llama, yarn, not truncated", *llama(**rope("yarn", **yarn, truncate=False)), 0
    yield "llama, longrope, long", *llama(**longrope(64, factor=3.0)), 65
    yield "llama, longrope, short", *llama(**longrope(POSITIONS, factor=2.0)), 0
    yield "mistral", t.MistralForCausalLM, t.MistralConfig(**SMALL, sliding_window=None), 0
    yield "mistral, window", t.MistralForCausalLM, t.MistralConfig(**SMALL, sliding_window=16), 0
    yield "qwen2", t.Qwen2ForCausalLM, t.Qwen2Config(**SMALL), 0
    yield "qwen2, windows, tied", t.Qwen2ForCausalLM, t.Qwen2Config(
        **SMALL, use_sliding_window=True, sliding_window=16, max_window_layers=2, tie_word_embeddings=True), 0
    yield "qwen2.5, yarn", t.Qwen2ForCausalLM, t.Qwen2Config(**SMALL, **rope("yarn", **yarn)), 0
    yield "qwen3", t.Qwen3ForCausalLM, t.Qwen3Config(**SMALL, head_dim=16), 0
    yield "qwen3, windows", t.Qwen3ForCausalLM, t.Qwen3Config(
        **SMALL, head_dim=16, use_sliding_window=True, sliding_window=16, max_window_layers=1), 0
    yield "smollm3", t.SmolLM3ForCausalLM, t.SmolLM3Config(**SMALL), 0
    yield "smollm3, every other, windows", t.SmolLM3ForCausalLM, t.SmolLM3Config(
        **SMALL, no_rope_layer_interval=2, use_sliding_window=True, sliding_window=16), 0
    yield "gemma2", t.Gemma2ForCausalLM, t.Gemma2Config(
        **SMALL, head_dim=16, sliding_window=16, query_pre_attn_scalar=24, attn_logit_softcapping=5.0,
        final_logit_softcapping=9.0), 0
    gemma3 = dict(**{**SMALL, "num_hidden_layers": 7}, head_dim=16, sliding_window=16, query_pre_attn_scalar=24)
    yield "gemma3", t.Gemma3ForCausalLM, t.Gemma3TextConfig(**gemma3), 0
    yield "gemma3, scaled", t.Gemma3ForCausalLM, t.Gemma3TextConfig(**gemma3, rope_parameters=dict(
        full_attention=dict(rope_type="linear", factor=8.0, rope_theta=900.0),
        sliding_attention=dict(rope_type="default", rope_theta=77.0))), 0
    phi3 = lambda **more: (t.Phi3ForCausalLM, t.Phi3Config(**{**SMALL, "original_max_position_embeddings": POSITIONS, **more}))
    yield "phi3", *phi3(), 0
    yield "phi3, window, part turned", *phi3(
        sliding_window=16, rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5)), 0
    yield "phi3, longrope, long", *phi3(**longrope(64)), 65
    yield "phi3, longrope, short", *phi3(**longrope(POSITIONS)), 0
    yield "phi3, longrope, part turned", *phi3(**longrope(64, pairs=3, partial_rotary_factor=0.5)), 65
    gpt2 = dict(vocab_size=VOCABULARY, n_embd=48, n_layer=3, n_head=4, n_positions=POSITIONS, bos_token_id=1, eos_token_id=2)
    yield "gpt2", t.GPT2LMHeadModel, t.GPT2Config(**gpt2), 0
    yield "gpt2, inner, relu, untied", t.GPT2LMHeadModel, t.GPT2Config(
        **gpt2, n_inner=80, activation_function="relu", tie_word_embeddings=False), 0


def rounded_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, softcap=None, **_):
    """Attention over keys and values rounded to f16, as they are in Whit's cache."""
    import torch

    group = query.shape[1] // key.shape[1]
    key, value = (x.half().float().repeat_interleave(group, 1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        scores = scores + attention_mask
    return (torch.softmax(scores, -1) @ value).transpose(1, 2).contiguous(), None


def run(*command):
    result = subprocess.run(list(map(str, command)), capture_output=True)
    if result.returncode != 0:
        raise RuntimeError(result.stderr.decode().strip())
    return result.stdout


def older(config):
    """The keys of a config.json as versions of `transformers` before 5 wrote them."""
    config = dict(config)
    for kind, suffix in (("full_attention", ""), ("sliding_attention", "_local")):
        parameters = config.get("rope_parameters") or {}
        parameters = dict(parameters.get(kind, {} if suffix else parameters))
        if parameters:
            config["rope_local_base_freq" if suffix else "rope_theta"] = parameters.pop("rope_theta")
        for key in ("partial_rotary_factor", "original_max_position_embeddings"):
            if key in parameters and (key == "partial_rotary_factor" or parameters["rope_type"] == "longrope"):
                config[key] = parameters.pop(key)
        if not suffix and parameters.get("rope_type", "default") != "default":
            config["rope_scaling"] = parameters
    config.pop("rope_parameters", None)
    return config


def compare(args, kind, config, least, folder):
    """The largest relative difference by tokens of a piece, for today's configuration and an older one."""
    import torch
    from transformers.modeling_utils import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register("rounded", rounded_attention)
    AttentionMaskInterface.register("rounded", eager_mask)
    torch.manual_seed(SEED)
    config._attn_implementation = "rounded"
    model = kind(config).eval()
    with torch.no_grad():
        # Freshly initialised weights are so small that layers hardly do anything.
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.5))
    model.save_pretrained(folder)
    text = (folder / "config.json").read_text()
    files = []
    for name, keys in (("new", json.loads(text)), ("old", older(json.loads(text)))):
        (folder / "config.json").write_text(json.dumps(keys))
        files.append(folder / f"{name}.whit")
        run(args.whit, "convert", folder, "-o", files[-1], "--dim", f"rows=1..{POSITIONS}")
    rng = np.random.default_rng(SEED)
    worst = dict.fromkeys(PIECES, 0.0)
    for length in PROMPTS:
        if length < least:
            continue
        ids = rng.integers(3, VOCABULARY, length)
        with torch.no_grad():
            expected = model(torch.from_numpy(ids)[None]).logits[0].numpy()
        for file in files:
            for piece in PIECES:
                found = run(args.logits, file, piece, *ids)
                found = np.frombuffer(found, np.float32).reshape(length, VOCABULARY)
                difference = np.abs(found - expected).max() / np.ptp(expected)
                worst[piece] = max(worst[piece], float(difference))
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whit", default="target/release/whit")
    parser.add_argument("--logits", default="target/release/examples/logits")
    parser.add_argument("--only", default="", help="models whose name matches this expression")
    parser.add_argument("--markdown", type=pathlib.Path, help="write the table to this file")
    parser.add_argument("--json", type=pathlib.Path, help="write the numbers to this file")
    args = parser.parse_args()
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    failed, rows = 0, []
    for name, kind, config, least in models():
        if not re.search(args.only, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                worst = compare(args, kind, config, least, pathlib.Path(folder))
            except RuntimeError as error:
                print(f"{name:32} {error}", flush=True)
                failed += 1
                continue
        verdict = "ok" if max(worst.values()) <= MAX_RELATIVE_ERROR else "MISSES"
        failed += verdict != "ok"
        rows.append({"model": name, "whole": worst[PIECES[0]], "pieces": worst[PIECES[1]], "tokens": worst[PIECES[2]]})
        print(f"{name:32} " + " ".join(f"{value:9.2e}" for value in worst.values()) + f"  {verdict}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if args.markdown:
        table = ["| model | prompt at once | in pieces of 7 | token by token |", "|---|---:|---:|---:|"]
        table += [f"| {r['model']} | {r['whole']:.1e} | {r['pieces']:.1e} | {r['tokens']:.1e} |" for r in rows]
        args.markdown.write_text("\n".join(table) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
