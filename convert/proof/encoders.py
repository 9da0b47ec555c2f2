#!/usr/bin/env python3
"""Compares encoders with Hugging Face's implementation.

    pip install numpy safetensors scipy torch transformers
    python convert/proof/encoders.py --whit target/release/whit [--only REGEX]      # and sentence-transformers, for poolings and dense layers
    python convert/proof/encoders.py --whit target/release/whit --sts MODEL_FOLDER stsb-en-test.csv [--int8]

The first form makes a small model of each architecture from a seed, saves it with save_pretrained and compares the
last hidden state of padded texts with `transformers`, up to a few hundred tokens long: the largest difference over the
range of the output (mark: 1e-4). The second form embeds the sentence pairs of a CSV file (two texts and a score) and
prints Spearman's correlation of cosines and scores; with --int8 also for the model calibrated on some of the
sentences, and the cosines between its vectors and the float model's. Exits with 1 when a model misses.
"""

import argparse
import csv
import json
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

import numpy as np

MAX_RELATIVE_ERROR = 1e-4
SEED = 8
# Sentences that int8 is calibrated on, and the tokens each is cut or padded to.
CALIBRATION_SENTENCES = 128
CALIBRATION_TOKENS = 48

SMALL = dict(vocab_size=99, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80,
             max_position_embeddings=300)


def models():
    import transformers as t

    yield "bert", t.BertModel, t.BertConfig(**SMALL)
    yield "bert-gelu-new", t.BertModel, t.BertConfig(**SMALL, hidden_act="gelu_new", type_vocab_size=5)
    yield "bert-relu", t.BertModel, t.BertConfig(**SMALL, hidden_act="relu", layer_norm_eps=1e-5)
    yield "bert-masked-lm", t.BertForMaskedLM, t.BertConfig(**SMALL)
    yield "bert-classifier", t.BertForSequenceClassification, t.BertConfig(**SMALL)
    yield "electra", t.ElectraModel, t.ElectraConfig(**SMALL, embedding_size=32)
    yield "electra-wide", t.ElectraModel, t.ElectraConfig(**SMALL, embedding_size=48)
    yield "roberta", t.RobertaModel, t.RobertaConfig(**SMALL, type_vocab_size=1)
    yield "roberta-masked-lm", t.RobertaForMaskedLM, t.RobertaConfig(**SMALL, type_vocab_size=1)
    yield "xlm-roberta", t.XLMRobertaModel, t.XLMRobertaConfig(**SMALL, type_vocab_size=1)
    yield "camembert", t.CamembertModel, t.CamembertConfig(**SMALL, type_vocab_size=1)
    yield "mpnet", t.MPNetModel, t.MPNetConfig(**SMALL)
    yield "albert", t.AlbertModel, t.AlbertConfig(**SMALL, embedding_size=16)
    yield "albert-groups", t.AlbertModel, t.AlbertConfig(**SMALL, embedding_size=16, num_hidden_groups=3)
    yield "albert-inner", t.AlbertModel, t.AlbertConfig(**SMALL, embedding_size=16, inner_group_num=2)
    yield "distilbert", t.DistilBertModel, t.DistilBertConfig(
        vocab_size=99, dim=48, n_layers=3, n_heads=4, hidden_dim=80, max_position_embeddings=300)


def whit(args, *command):
    result = subprocess.run([args.whit, *map(str, command)], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(result.stderr.strip())
    return result.stdout


def random_texts(config, rng):
    """Ids, mask and segments of texts padded at their end with the padding token."""
    padding = config.pad_token_id if config.pad_token_id is not None else 0
    lengths = [[1], [7, 3], [40, 40, 1], [290, 150]]
    for group in lengths:
        ids = np.full((len(group), max(group)), padding, np.int32)
        mask = np.zeros_like(ids)
        for row, length in enumerate(group):
            ids[row, :length] = rng.integers(4, 99, length)
            mask[row, :length] = 1
        segments = rng.integers(0, getattr(config, "type_vocab_size", 1) or 1, ids.shape).astype(np.int32)
        yield ids, mask, segments


def compare(args, name, kind, config, folder):
    import torch

    torch.manual_seed(SEED)
    config._attn_implementation = "eager"
    model = kind(config).eval()
    with torch.no_grad():
        # Freshly initialised weights are so small that layers hardly do anything.
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.5))
    model.save_pretrained(folder)
    file = folder / "model.whit"
    whit(args, "convert", folder, "-o", file, "--dim", "seq=1..290")
    inputs = {row["name"] for row in json.loads(whit(args, "inspect", file, "--json"))["inputs"]}
    base = getattr(model, model.base_model_prefix, model)
    rng = np.random.default_rng(SEED)
    worst = 0.0
    for ids, mask, segments in random_texts(config, rng):
        given = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in inputs:
            given["token_type_ids"] = segments
        with torch.no_grad():
            expected = base(**{key: torch.from_numpy(value).long() for key, value in given.items()})
        expected = expected.last_hidden_state.numpy()
        for row in range(len(ids)):
            command = ["run", file, "--output", folder / "out"]
            for key, value in given.items():
                np.save(folder / f"{key}.npy", value[row : row + 1])
                command += ["--input", f"{key}={folder / f'{key}.npy'}"]
            whit(args, *command)
            found = np.load(folder / "out" / "last_hidden_state.npy")[0]
            tokens = mask[row] == 1
            difference = np.abs(found[tokens] - expected[row][tokens]).max()
            worst = max(worst, float(difference / np.ptp(expected[row][tokens])))
    return worst


def sentence_models():
    """Poolings of sentence-transformers by its own names, perhaps with the activation functions of dense layers behind."""
    yield "mean", []
    yield "cls", []
    yield "max", []
    yield "mean_sqrt_len_tokens", []
    yield "weightedmean", []
    yield "lasttoken", []
    yield "mean", ["Tanh"]
    yield "lasttoken", ["ReLU", "Identity"]


def compare_sentences(pooling, activations, args, folder):
    """Of vectors of texts of several lengths, one a call: the largest difference over their range."""
    import torch
    import transformers as t
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

    torch.manual_seed(SEED)
    model = t.BertModel(t.BertConfig(**SMALL)).eval()
    modules = [Pooling(SMALL["hidden_size"], pooling_mode=pooling)]
    for at, activation in enumerate(activations):
        inputs = modules[-1].out_features if at else SMALL["hidden_size"]
        modules.append(Dense(inputs, 40 - 8 * at, activation_function=getattr(torch.nn, activation)()))
    modules.append(Normalize())
    model.save_pretrained(folder)
    rows = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for at, module in enumerate(modules, 1):
        path = f"{at}_{type(module).__name__}"
        (folder / path).mkdir()
        module.save(str(folder / path))
        rows.append({"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{type(module).__name__}"})
    (folder / "modules.json").write_text(json.dumps(rows))
    file = folder / "model.whit"
    whit(args, "convert", folder, "-o", file, "--dim", "seq=1..290")
    rng = np.random.default_rng(SEED)
    worst = 0.0
    for ids, mask, segments in random_texts(model.config, rng):
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}
        with torch.no_grad():
            tensors = {key: torch.from_numpy(value).long() for key, value in given.items()}
            features = {"token_embeddings": model(**tensors).last_hidden_state, "attention_mask": tensors["attention_mask"]}
            for module in modules:
                features = module(features)
        expected = features["sentence_embedding"].numpy()
        for row in range(len(ids)):
            command = ["run", file, "--output", folder / "out"]
            for key, value in given.items():
                np.save(folder / f"{key}.npy", value[row : row + 1])
                command += ["--input", f"{key}={folder / f'{key}.npy'}"]
            whit(args, *command)
            found = np.load(folder / "out" / "embedding.npy")[0]
            worst = max(worst, float(np.abs(found - expected[row]).max() / np.ptp(expected[row])))
    return worst


def small_models(args):
    failed = 0
    for pooling, activations in sentence_models():
        name = " ".join([pooling, *activations])
        if not re.search(args.only, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            worst = compare_sentences(pooling, activations, args, pathlib.Path(folder))
        verdict = "ok" if worst <= MAX_RELATIVE_ERROR else "MISSES"
        failed += verdict != "ok"
        print(f"{name:32} {worst:9.2e}  {verdict}", flush=True)
    for name, kind, config in models():
        if not re.search(args.only, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            worst = compare(args, name, kind, config, pathlib.Path(folder))
        verdict = "ok" if worst <= MAX_RELATIVE_ERROR else "MISSES"
        failed += verdict != "ok"
        print(f"{name:20} {worst:9.2e}  {verdict}", flush=True)
    return failed


# --- sentence pairs ------------------------------------------------------------------------------


def embedded(args, file, texts, folder):
    (folder / "texts.txt").write_text("\n".join(texts) + "\n")
    whit(args, "embed", file, "--file", folder / "texts.txt", "--output", folder / "vectors.npy")
    vectors = np.load(folder / "vectors.npy").astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def calibration(model_folder, texts, path):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    tokenizer.enable_truncation(CALIBRATION_TOKENS)
    tokenizer.enable_padding(length=CALIBRATION_TOKENS)
    rng = np.random.default_rng(SEED)
    chosen = rng.choice(len(texts), CALIBRATION_SENTENCES, replace=False)
    encoded = tokenizer.encode_batch([texts[index] for index in chosen])
    ids = np.array([e.ids for e in encoded], np.int32)
    mask = np.array([e.attention_mask for e in encoded], np.int32)
    np.savez(path, input_ids=ids, attention_mask=mask, token_type_ids=np.zeros_like(ids))


def sentence_pairs(args):
    from scipy.stats import spearmanr

    model_folder, pairs = pathlib.Path(args.sts[0]), args.sts[1]
    with open(pairs, newline="") as lines:
        rows = [row for row in csv.reader(lines)]
    texts = [text.replace("\n", " ") for row in rows for text in row[:2]]
    scores = [float(row[2]) for row in rows]
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        whit(args, "convert", model_folder, "-o", folder / "float.whit")
        vectors = embedded(args, folder / "float.whit", texts, folder)
        correlation = 100 * spearmanr((vectors[::2] * vectors[1::2]).sum(1), scores).statistic
        print(f"float: Spearman {correlation:.2f} over {len(rows)} pairs")
        if args.int8:
            calibration(model_folder, texts, folder / "calibration.npz")
            whit(args, "convert", model_folder, "-o", folder / "int8.whit", "--quantize", "int8",
                 "--calibrate", folder / "calibration.npz", *args.convert)
            small = embedded(args, folder / "int8.whit", texts, folder)
            cosines = (small * vectors).sum(1)
            of_small = 100 * spearmanr((small[::2] * small[1::2]).sum(1), scores).statistic
            print(f"int8:  Spearman {of_small:.2f} ({of_small - correlation:+.2f}), cosines to float: "
                  f"mean {cosines.mean():.5f}, 1st percentile {np.percentile(cosines, 1):.5f}, least {cosines.min():.5f}")
            failed = abs(of_small - correlation) > 0.2 or cosines.mean() < 0.99
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whit", default="target/release/whit")
    parser.add_argument("--only", default="", help="architectures whose name matches this expression")
    parser.add_argument("--sts", nargs=2, metavar=("FOLDER", "CSV"), help="a model of sentences and pairs with scores")
    parser.add_argument("--int8", action="store_true", help="with --sts: also quantized")
    parser.add_argument("--convert", type=shlex.split, default=[], help="with --int8: further options of whit convert, as one text")
    args = parser.parse_args()
    sys.exit(1 if (sentence_pairs(args) if args.sts else small_models(args)) else 0)


if __name__ == "__main__":
    main()
