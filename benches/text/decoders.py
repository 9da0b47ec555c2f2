#!/usr/bin/env python3
"""Runs a GGUF model through Whit and through llama.cpp: greedy texts, rates in one run, in turns, and memory.

    pip install llama-cpp-python
    benches/text/decoders.py MODEL.gguf [--whit target/release/whit] [--threads 1 2] [--rounds 3] [--only texts logits rates memory]
        [--precision highest]

Texts: ten prompts, 64 tokens each, temperature 0, beside a reference: llama.cpp with the same weights written out as f32, so that it
computes with f32 activations. From Q4 and Q8 weights it rounds activations to 8 bits, and Whit to 16. Where a
text parts from the reference's: the logit of its token less that of the reference's, for each of the three, and the largest difference
of any logit from the reference. `--precision highest` makes Whit compute in f32 throughout.

Logits: those behind every token of the prompts and of 40 more that the reference chooses, with its keys and values in f32, too: the largest
difference of any, Whit's tokens one by one with keys and values in f32 and in f16, and that of the same reference with f16.

Rates: a prompt of 512 tokens (pp512) and 128 tokens one by one (tg128), as llama-bench has them; medians. Memory: the peak of
processes that only continue a prompt of 512 tokens by 64, less that of an empty program in the same language.
"""

import argparse
import ctypes
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import llama_cpp
import numpy
from llama_cpp import Llama
from tool import whit

PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a little girl named",
    "Water boils at a temperature of",
    "The three primary colours are",
    "In 1969, the first humans",
    "def fibonacci(n):\n",
    "To make pancakes, you need",
    "The largest planet in the solar system is",
    "Dear Sir or Madam,\n",
    "Photosynthesis is the process by which",
]
TOKENS = 64
CHOSEN = 40  # of which all logits are compared
KINDS = ["texts", "logits", "rates", "memory"]
QUIET = llama_cpp.llama_log_callback(lambda level, text, data: None)
CONTEXT = 2048


def generate(args, model, prompt, tokens, threads):
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(prompt)
        file.flush()
        options = ["--prompt-file", file.name, "--max-tokens", tokens, "--temperature", 0, "--threads", threads]
        options += ["--precision", args.precision]
        return json.loads(whit(args, "generate", model, *options, "--json"))


def greedy(llama, ids, tokens):
    """Greedy ids, and the logits behind each."""
    llama.reset()
    llama.eval(ids)
    made, logits = [], []
    for _ in range(tokens):
        row = llama.scores[llama.n_tokens - 1]
        logits.append(row.copy())
        made.append(int(row.argmax()))
        if made[-1] == llama.token_eos():
            break
        llama.eval([made[-1]])
    return made, logits


def reference(args, folder):
    """The model with its weights as f32."""
    llama_cpp.llama_log_set(QUIET, None)
    file = folder / "f32.gguf"
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = llama_cpp.LLAMA_FTYPE_ALL_F32
    options.allow_requantize = True
    if llama_cpp.llama_model_quantize(str(args.gguf).encode(), str(file).encode(), ctypes.byref(options)):
        raise SystemExit("llama.cpp cannot write the model as f32")
    return file


def logits_of_whit(args, model, ids, folder):
    """The logits behind each of some tokens, computed one by one."""
    count = len(ids)
    command = ["run", model, "--output", folder / "out", "--precision", args.precision]
    for name, values in (("tokens", ids), ("positions", range(count)), ("rows", [0] * count)):
        numpy.save(folder / f"{name}.npy", numpy.array(values, numpy.int32).reshape(count, 1))
        command += ["--input", f"{name}={folder / name}.npy"]
    whit(args, *command)
    return numpy.load(folder / "out" / "logits.npy").reshape(count, -1)


def texts(args, model, folder):
    options = {"n_ctx": CONTEXT, "verbose": False, "logits_all": True, "n_threads": 1, "n_threads_batch": 1}
    llama = Llama(str(reference(args, folder)), **options)
    prompts = [llama.tokenize(prompt.encode(), add_bos=False, special=True) for prompt in PROMPTS]
    expected = [greedy(llama, ids, TOKENS) for ids in prompts]
    llama.close()
    llama = Llama(str(args.gguf), **options)
    same = {"Whit": 0, "llama.cpp": 0}
    print("| prompt | who parts | at | reference | Whit | llama.cpp | Whit's largest | llama.cpp's largest |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for prompt, ids, (right, logits) in zip(PROMPTS, prompts, expected):
        their_ids, their_logits = greedy(llama, ids, TOKENS)
        our_ids = generate(args, model, prompt, TOKENS, 1)["ids"]
        for name, made in (("Whit", our_ids), ("llama.cpp", their_ids)):
            at = next((i for i, (a, b) in enumerate(zip(made, right)) if a != b), None)
            if at is None:
                same[name] += 1
                continue
            before = ids + right[:at]
            ours = logits_of_whit(args, model, before, folder)[-1]
            # Those that it chose by, where its text is the reference's so far: other batches have other logits.
            theirs = their_logits[at] if their_ids[:at] == right[:at] else greedy(llama, before, 1)[1][0]
            row = [json.dumps(prompt), name, at]
            row += [f"{of[made[at]] - of[right[at]]:+.4f}" for of in (logits[at], ours, theirs)]
            row += [f"{abs(of - logits[at]).max():.4f}" for of in (ours, theirs)]
            print("|", " | ".join(map(str, row)), "|", flush=True)
    llama.close()
    print(f"of {len(PROMPTS)} texts are the reference's: Whit's {same['Whit']}, llama.cpp's {same['llama.cpp']}")


def logits(args, model, folder):
    file = str(reference(args, folder))
    options = {"n_ctx": CONTEXT, "verbose": False, "logits_all": True, "n_threads": 1, "n_threads_batch": 1}
    exact = Llama(file, type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, **options)
    halves = Llama(file, **options)
    floats = folder / "floats.whit"
    whit(args, "convert", args.gguf, "-o", floats, "--context", CONTEXT, "--kv-cache", "f32")
    found = []
    print("| prompt | Whit's largest with f32 | with f16 | the reference's with f16 |")
    print("|---|---:|---:|---:|")
    for prompt in PROMPTS:
        ids = exact.tokenize(prompt.encode(), add_bos=False, special=True)
        ids += greedy(exact, ids, CHOSEN)[0]
        right = all_logits(exact, ids)
        others = [logits_of_whit(args, of, ids, folder) for of in (floats, model)] + [all_logits(halves, ids)]
        found.append([abs(of - right).max() for of in others])
        print("|", json.dumps(prompt), "|", " | ".join(f"{of:.4f}" for of in found[-1]), "|", flush=True)
    means = [f"{statistics.mean(column):.4f}" for column in zip(*found)]
    print("| mean |", " | ".join(means), "|")
    exact.close()
    halves.close()


def all_logits(llama, ids):
    """The logits behind each of some tokens, computed one by one."""
    llama.reset()
    for token in ids:
        llama.eval([token])
    return llama.scores[: len(ids)].copy()


def rates(args, model, threads):
    llama = Llama(str(args.gguf), n_ctx=CONTEXT, verbose=False, n_threads=threads, n_threads_batch=threads)
    ids = [id * 37 % 4000 + 100 for id in range(512)]
    found = {"pp512": ([], []), "tg128": ([], [])}
    for _ in range(args.rounds):
        bench = json.loads(whit(args, "bench", model, "--seconds", 0.1, "--threads", threads,
                                "--precision", args.precision, "--json"))
        for name in found:
            found[name][0].append(bench[name])
        llama.reset()
        start = time.perf_counter()
        llama.eval(ids)
        found["pp512"][1].append(512 / (time.perf_counter() - start))
        llama.reset()
        start = time.perf_counter()
        for id in ids[:128]:
            llama.eval([id])
        found["tg128"][1].append(128 / (time.perf_counter() - start))
    llama.close()
    for name, (ours, theirs) in found.items():
        ours, theirs = statistics.median(ours), statistics.median(theirs)
        print(f"{name}, {threads} threads: Whit {ours:.1f} tokens/s, llama.cpp {theirs:.1f}: {ours / theirs:.2f} ×")


def peak_mb(*command):
    """Of a process, as the system counts it: with the pages of mapped files that it has read."""
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} failed")
    return usage.ru_maxrss * 1024 / 1e6


def memory(args, model, folder):
    prompt = folder / "prompt.txt"
    prompt.write_text("The cat sat on the mat. " * 73)  # 512 tokens of most vocabularies
    options = ["--prompt-file", prompt, "--max-tokens", 64, "--temperature", 0, "--json"]
    ours = peak_mb(args.whit, "generate", model, *options) - peak_mb(args.whit, "--version")
    report = json.loads(whit(args, "inspect", model, "--context", CONTEXT, "--json"))
    program = "import llama_cpp"
    empty = peak_mb(sys.executable, "-c", program)
    program += f"""
llama = llama_cpp.Llama({str(args.gguf)!r}, n_ctx={CONTEXT}, verbose=False, n_threads=1, n_threads_batch=1)
ids = llama.tokenize(open({str(prompt)!r}, "rb").read(), add_bos=False)
made = 0
for _ in llama.generate(ids, temp=0):
    made += 1
    if made == 64:
        break
"""
    theirs = peak_mb(sys.executable, "-c", program) - empty
    file, cache = report["file_bytes"] / 1e6, report["kv_cache_bytes"] / 1e6
    mark = 1.1 * (file + cache)
    print(f"peak memory at a context of {CONTEXT}: Whit {ours:.0f} MB, llama.cpp {theirs:.0f}; "
          f"file {file:.0f} and KV cache {cache:.0f}, and 10 %: {mark:.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=pathlib.Path)
    parser.add_argument("--whit", default="target/release/whit")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["high", "highest"], default="high")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        model = folder / "model.whit"
        whit(args, "convert", args.gguf, "-o", model, "--context", CONTEXT)
        # First: what a process has at its peak includes what this one had when it started it.
        if "memory" in args.only:
            memory(args, model, folder)
        if "texts" in args.only:
            texts(args, model, folder)
        if "logits" in args.only:
            logits(args, model, folder)
        if "rates" in args.only:
            for threads in args.threads:
                rates(args, model, threads)


main()
