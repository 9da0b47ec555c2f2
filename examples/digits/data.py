"""Splits scikit-learn's digits into a training set, a calibration set and a test set; checks the model.

data.py split TRAIN.npz   writes TRAIN.npz (not kept) and, beside this file, digits-calib.npz and
                          digits-test.npz
data.py check             accuracy of digits.onnx in ONNX Runtime on digits-test.npz
"""
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
TEST_SAMPLES = 360  # a fifth
CALIB_SAMPLES = 100
SEED = 0


def split(train_path):
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    image = digits.images.astype(np.uint8)[:, None]  # [1797, 1, 8, 8], pixels 0..16
    labels = digits.target.astype(np.uint8)
    x, x_test, y, y_test = train_test_split(
        image, labels, test_size=TEST_SAMPLES, stratify=labels, random_state=SEED)
    # Not compressed: candle reads stored archives only.
    np.savez(train_path, image=x, labels=y)
    # Calibration needs no labels; its samples are part of the training set.
    np.savez_compressed(HERE / "digits-calib.npz", image=x[:CALIB_SAMPLES])
    np.savez_compressed(HERE / "digits-test.npz", image=x_test, labels=y_test)


def check():
    import onnx
    import onnxruntime

    path = HERE / "digits.onnx"
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    data = np.load(HERE / "digits-test.npz")
    probabilities = session.run(["probabilities"], {"image": data["image"].astype(np.float32)})[0]
    accuracy = (probabilities.argmax(1) == data["labels"]).mean()
    print(f"ONNX Runtime: {accuracy:.2%} of {len(data['labels'])} test digits")
    if accuracy < 0.97:
        sys.exit("the model is worse than 97 %")


if __name__ == "__main__":
    if sys.argv[1:2] == ["split"] and len(sys.argv) == 3:
        split(sys.argv[2])
    elif sys.argv[1:] == ["check"]:
        check()
    else:
        sys.exit(__doc__)
