#!/usr/bin/env python3
"""Compiles every CUDA kernel with NVRTC for every architecture, without a GPU; fails on a warning or a spill.

    python compile_kernels.py FOLDER_OF_NVRTC [ARCHITECTURE...]

NVRTC comes from PyPI: pip install nvidia-cuda-nvrtc==13.0.88. FOLDER_OF_NVRTC is where libnvrtc.so.13 lies, and has to be
in LD_LIBRARY_PATH too, since NVRTC loads a library of its own from there.
"""
import ctypes
import pathlib
import re
import sys

ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100"]
# As `nvidia.rs` has them, and what the assembler has to say.
OPTIONS = ["--fmad=false", "--ptxas-options=-v"]
# Lines of the assembler that are no complaints.
INFORMATION = re.compile(r"^ptxas (info |\s+\.)|^\s*$")


def compile_file(nvrtc, path, headers, architecture):
    """The log of a compilation, and whether it went well."""
    program = ctypes.c_void_p()
    count = len(headers)
    texts = (ctypes.c_char_p * count)(*[header.read_bytes() for header in headers])
    names = (ctypes.c_char_p * count)(*[header.name.encode() for header in headers])
    source = path.read_bytes()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, path.name.encode(), count, texts, names):
        raise SystemExit("nvrtcCreateProgram failed")
    options = [option.encode() for option in [f"--gpu-architecture={architecture}", *OPTIONS]]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return log.value.decode(), status == 0


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    nvrtc = ctypes.CDLL(str(pathlib.Path(sys.argv[1]) / "libnvrtc.so.13"))
    kernels = pathlib.Path(__file__).parent / "kernels"
    headers = [kernels / name for name in ["common.h", "conv_f32.h", "patch_i8.h"]]
    complaints, compiled, registers = [], 0, {}
    for path in sorted(kernels.glob("*.cu")):
        text = path.read_text()
        declared = set(re.findall(r"^KERNEL\((\w+),", text, re.MULTILINE))
        least = re.search(r"^#define LEAST_ARCHITECTURE (\d+)", text, re.MULTILINE)
        for architecture in sys.argv[2:] or ARCHITECTURES:
            if least and int(architecture.removeprefix("sm_")) < int(least[1]):
                continue
            log, ok = compile_file(nvrtc, path, headers, architecture)
            where = f"{path.name} for {architecture}"
            if not ok:
                complaints.append(f"{where}:\n{log}")
                continue
            complaints += [f"{where}: {line}" for line in log.splitlines() if not INFORMATION.match(line)]
            # "Compiling entry function 'f' …", then its stack and spills, then its registers.
            found = re.findall(
                r"entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
                r".*?Used (\d+) registers", log, re.DOTALL)
            for name, stack, stores, loads, used in found:
                compiled += 1
                registers[name] = max(registers.get(name, 0), int(used))
                if int(stack) or int(stores) or int(loads):
                    complaints.append(f"{where}: {name} has a stack frame of {stack} bytes, spills {stores} + {loads}")
            if {name for name, *_ in found} != declared:
                complaints.append(f"{where}: the kernels declared aren't those compiled")
    for complaint in complaints:
        print(complaint)
    most = max(registers.items(), key=lambda item: item[1])
    print(f"{len(registers)} kernels, {compiled} compilations, {len(complaints)} complaints; most registers: {most[1]} ({most[0]})")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
