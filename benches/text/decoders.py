#!/usr/bin/env python3
"""Runs a GGUF model through Whit and through llama.cpp: the same greedy text, and rates in one run, in turns.

    pip install llama-cpp-python
    benches/text/decoders.py MODEL.gguf [--whit target/release/whit] [--threads 1] [--rounds 3]

Texts: ten prompts, 64 tokens each, temperature 0. Where they part, the logits that llama.cpp gives to both tokens are shown: it
rounds activations to 8 bits, so that candidates closer than that may change places. Rates: a prompt of 512 tokens
(pp512) and 128 tokens one by one (tg128), as llama-bench has them; medians.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

from llama_cpp import Llama

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
CONTEXT = 2048


def whit(args, *command):
    answer = subprocess.run([args.whit, *map(str, command)], capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(f"whit {command[0]}: {answer.stderr}")
    return answer.stdout


def generate(args, model, prompt, tokens):
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(prompt)
        file.flush()
        options = ["--prompt-file", file.name, "--max-tokens", tokens, "--temperature", 0, "--threads", args.threads]
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


def texts(args, model, llama):
    same = 0
    for prompt in PROMPTS:
        ids = llama.tokenize(prompt.encode(), add_bos=False, special=True)
        theirs, logits = greedy(llama, ids, TOKENS)
        ours = generate(args, model, prompt, TOKENS)["ids"]
        at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), None)
        if at is None:
            same += 1
            print(f"  same {min(len(ours), len(theirs))} tokens: {prompt!r}")
        else:
            gap = logits[at][theirs[at]] - logits[at][ours[at]]
            print(f"  part at token {at}: {prompt!r}; llama.cpp's logits are {gap:.4f} apart")
    print(f"{same} of {len(PROMPTS)} texts are the same")


def rates(args, model, llama):
    ids = [id * 37 % 4000 + 100 for id in range(512)]
    found = {"pp512": ([], []), "tg128": ([], [])}
    for _ in range(args.rounds):
        bench = json.loads(whit(args, "bench", model, "--seconds", 0.1, "--threads", args.threads, "--json"))
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
    for name, (ours, theirs) in found.items():
        ours, theirs = statistics.median(ours), statistics.median(theirs)
        print(f"{name}: Whit {ours:.1f} tokens/s, llama.cpp {theirs:.1f}: {ours / theirs:.2f} ×")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=pathlib.Path)
    parser.add_argument("--whit", default="target/release/whit")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(folder) / "model.whit"
        whit(args, "convert", args.gguf, "-o", model, "--context", CONTEXT)
        threads = {"n_threads": args.threads, "n_threads_batch": args.threads}
        for all_logits, part in [(True, texts), (False, rates)]:
            llama = Llama(str(args.gguf), n_ctx=CONTEXT, verbose=False, logits_all=all_logits, **threads)
            part(args, model, llama)
            llama.close()


main()
