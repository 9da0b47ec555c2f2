"""Builds what measures: the tool, and the runner with the chosen runtimes."""

import os
import pathlib
import subprocess
import sys

from cases import ROOT

TARGET = (ROOT / os.environ.get("CARGO_TARGET_DIR", "target")).resolve()
WORK = TARGET / "peers"
RUST_PEERS = ("tract", "rten", "candle")


def cargo(target, *arguments, **environment):
    environment = os.environ | {"CARGO_TARGET_DIR": str(target)} | environment
    subprocess.run(["cargo", "build", "--quiet", "--release", *arguments], cwd=ROOT, env=environment, check=True)


def protoc():
    """A compiler of protobuf definitions, which building candle-onnx takes."""
    path = WORK / "protoc"
    text = f'#!/bin/sh\nexec "{sys.executable}" -m grpc_tools.protoc "$@"\n'
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
        path.chmod(0o755)
    return str(path)


def build(runtimes):
    """Paths of the tool and of the runner."""
    cargo(TARGET, "-p", "whit-cli")
    features = ",".join(name for name in RUST_PEERS if name in runtimes)
    environment = {"PROTOC": os.environ.get("PROTOC") or protoc()} if "candle" in runtimes else {}
    cargo(WORK / "runner", "--locked", "--manifest-path", "benches/peers/runner/Cargo.toml", "--features", features,
          **environment)
    return TARGET / "release/whit", WORK / "runner/release/whit-peers-runner"
