"""Converts magika's model (PyPI, Apache-2.0) and compares its outputs with stored probabilities.

    pip install numpy && pip install --no-deps magika==1.0.3
    python benches/peers/check_magika.py --whit target/release/whit --golden ../shared/models/golden/magika.npz

Prints the largest difference for every instruction set of this CPU; exits 1 above 1e-4.
"""

import argparse
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

TOLERANCE = 1e-4  # probabilities, summed in another order
ISAS = ["scalar", "avx2", "avx512"]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--whit", required=True)
    arguments.add_argument("--golden", required=True)
    options = arguments.parse_args()
    package = pathlib.Path(importlib.util.find_spec("magika").origin).parent
    model = package / "models" / "standard_v3_3" / "model.onnx"
    golden = np.load(options.golden)
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        subprocess.run([options.whit, "convert", model, "-o", folder / "magika.whit"], check=True)
        np.save(folder / "bytes.npy", golden["x"].astype(np.int32))
        for isa in ISAS:
            command = [options.whit, "run", folder / "magika.whit", "--isa", isa, "--json"]
            command += ["--input", f"bytes={folder / 'bytes.npy'}", "--output", folder / isa]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode == 2:
                print(f"{isa}: not on this CPU")
                continue
            if result.returncode != 0:
                sys.exit(result.stderr)
            found = np.load(json.loads(result.stdout)["outputs"][0]["file"])
            difference = float(np.abs(found - golden["probs"]).max())
            print(f"{isa}: largest difference {difference:.2e} over {len(found)} files")
            worst = max(worst, difference)
    sys.exit(0 if worst <= TOLERANCE else 1)


if __name__ == "__main__":
    main()
