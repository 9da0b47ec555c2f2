"""What was measured on, and which versions."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
import tomllib

from cases import ROOT

# Those that kernels choose by.
FEATURES = "avx2 fma avx_vnni avx512f avx512_vnni avx512_bf16 amx_int8 amx_bf16 asimddp asimdhp i8mm sve2".split()
NAMES = {"whit": "Whit", "litert": "LiteRT", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tract": "tract",
         "rten": "rten", "candle": "candle"}
PACKAGES = {"litert": "ai-edge-litert", "onnxruntime": "onnxruntime", "openvino": "openvino"}
CRATES = {"tract": "tract-onnx", "rten": "rten", "candle": "candle-onnx"}


def describe():
    about = {"cpu": platform.machine(), "cores": os.cpu_count(), "features": [], "kernel": platform.release(),
             "system": "", "memory_gib": None, "caches": {}}
    for line in lines("/proc/cpuinfo"):
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "model name":
            about["cpu"] = value
        elif key in ("cpu family", "model", "stepping"):
            about[key.replace(" ", "_")] = value
        elif key in ("flags", "Features"):
            about["features"] = [name for name in FEATURES if name in value.split()]
            break
    for line in lines("/proc/meminfo"):
        if line.startswith("MemTotal:"):
            about["memory_gib"] = round(int(line.split()[1]) / (1 << 20), 1)
    for line in lines("/etc/os-release"):
        if line.startswith("PRETTY_NAME="):
            about["system"] = line.partition("=")[2].strip('"')
    for index in sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        read = lambda name: (index / name).read_text().strip()
        try:
            about["caches"][f"L{read('level')} {read('type').lower()}"] = read("size")
        except OSError:
            pass
    return about


def lines(path):
    try:
        return pathlib.Path(path).read_text().splitlines()
    except OSError:
        return []


def versions(runtimes):
    lock = tomllib.loads((pathlib.Path(__file__).parent / "runner/Cargo.lock").read_text())
    crates = {package["name"]: package["version"] for package in lock["package"]}
    found = {}
    for runtime in runtimes:
        if runtime in PACKAGES:
            found[runtime] = importlib.metadata.version(PACKAGES[runtime])
        elif runtime in CRATES:
            found[runtime] = crates[CRATES[runtime]]
        else:
            found[runtime] = " ".join(part for part in (crates["whit"], revision()) if part)
    return found


def revision():
    git = lambda *command: subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True).stdout.strip()
    try:
        commit = git("rev-parse", "--short=10", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "runtime", "convert", "cli", "Cargo.lock")
    except OSError:
        return ""
    return f"({commit}{', changed' if changed else ''})" if commit else ""


def line(result):
    """One line for people."""
    about = result["machine"]
    family = f"family {about['cpu_family']} model {about['model']}, " if "model" in about else ""
    return (f"{about['cpu']} ({family}{about['cores']} cores; {', '.join(about['features'])}), {about['memory_gib']} GiB, "
            f"{about['system']}, kernel {about['kernel']}")
