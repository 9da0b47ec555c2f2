"""Runs one model in LiteRT, ONNX Runtime or OpenVINO, and times the runs inside the process.

The same protocol as runner/, by lines: a job as JSON comes in, then requests; an answer as JSON
goes out for each. Between requests the driver stops the process.

Settings are each runtime's own but for the number of threads, and: OpenVINO has one stream with the hint
LATENCY, as batches of one want it, and computes float models in f32 (on some CPUs it would take bf16).
"""

import gc
import json
import os
import sys
import time

import numpy as np


class LiteRT:
    """The interpreter with its default delegate, XNNPACK."""

    def __init__(self, job, inputs):
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(job["model"], num_threads=job["threads"])
        self.interpreter.allocate_tensors()
        self.details = self.interpreter.get_input_details()
        self.inputs = inputs
        self.run = self.interpreter.invoke

    def select(self, sample):
        self.interpreter.reset_all_variables()
        for detail, values in zip(self.details, self.inputs):
            self.interpreter.set_tensor(detail["index"], values[sample])

    def outputs(self):
        for detail in self.interpreter.get_output_details():
            scale, zero_point = detail["quantization"]
            values = self.interpreter.get_tensor(detail["index"]).astype(np.float32)
            yield ((values - np.float32(zero_point)) * np.float32(scale) if scale else values), scale


class OnnxRuntime:
    """A session with inputs and outputs bound beforehand, the CPU provider."""

    def __init__(self, job, inputs):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = job["threads"], 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
        self.binding = self.session.io_binding()
        wanted = [given.name for given in self.session.get_inputs()]
        names = [given["name"] for given in job["inputs"]]
        self.names = names if set(names) == set(wanted) else wanted
        self.inputs = inputs
        run, binding = self.session.run_with_iobinding, self.binding
        self.run = lambda: run(binding)

    def select(self, sample):
        for name, values in zip(self.names, self.inputs):
            self.binding.bind_cpu_input(name, values[sample])
        for output in self.session.get_outputs():
            self.binding.bind_output(output.name)

    def outputs(self):
        for values in self.binding.copy_outputs_to_cpu():
            yield np.asarray(values, np.float32), 0


class OpenVINO:
    """A compiled model for the CPU, one request."""

    def __init__(self, job, inputs):
        import openvino

        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": job["threads"], "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        if job["kind"] == "float":
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        model = core.read_model(job["model"])
        names = [given["name"] for given in job["inputs"]]
        ports = {name: port for port in model.inputs for name in port.get_names()}
        self.ports = [ports.get(name, port).get_any_name() for name, port in zip(names, model.inputs)]
        # Dimensions that the file leaves open are those of a sample.
        model.reshape({port: list(values.shape[1:]) for port, values in zip(self.ports, inputs)})
        self.compiled = core.compile_model(model, "CPU", settings)
        self.request = self.compiled.create_infer_request()
        self.tensor, self.inputs, self.job = openvino.Tensor, inputs, job
        # The method under the Python wrapper, which would copy outputs into a dictionary.
        infer, request, nothing = openvino._pyopenvino.InferRequest.infer, self.request, {}
        self.run = lambda: infer(request, nothing, share_outputs=True, decode_strings=False)

    def select(self, sample):
        for port, values in zip(self.ports, self.inputs):
            self.request.set_tensor(port, self.tensor(values[sample], shared_memory=True))

    def outputs(self):
        for output in self.compiled.outputs:
            values = self.request.get_tensor(output).data
            # The integers of a .tflite come out as they are.
            integer = np.issubdtype(values.dtype, np.integer)
            scale, zero_point = (self.job["step"], self.job["zero_point"]) if integer else (1, 0)
            yield (values.astype(np.float32) - np.float32(zero_point)) * np.float32(scale), scale if integer else 0


RUNTIMES = {"litert": LiteRT, "onnxruntime": OnnxRuntime, "openvino": OpenVINO}


def load(runtime):
    """Imports a runtime's library before its cold start is timed."""
    if runtime == "litert":
        import ai_edge_litert.interpreter  # noqa: F401
    elif runtime == "onnxruntime":
        import onnxruntime  # noqa: F401
    else:
        import openvino  # noqa: F401


def status(key):
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def timed(run, warm_up, runs):
    clock = time.perf_counter_ns
    for _ in range(warm_up):
        run()
    times = [0] * runs
    gc.collect()
    gc.disable()
    for index in range(runs):
        start = clock()
        run()
        times[index] = clock() - start
    gc.enable()
    return times


def write_outputs(engine, samples, folder):
    files, about = [], []
    for sample in range(samples):
        engine.select(sample)
        engine.run()
        about = []
        for index, (values, scale) in enumerate(engine.outputs()):
            if sample == 0:
                files.append(open(os.path.join(folder, f"{index}.f32"), "wb"))
            np.ascontiguousarray(values, "<f4").tofile(files[index])
            about.append({"shape": list(values.shape), "scale": float(scale)})
    for file in files:
        file.close()
    engine.select(0)
    engine.run()
    return about


def answer(channel, value):
    channel.write(json.dumps(value) + "\n")
    channel.flush()


def serve(job, requests, channel):
    inputs = [
        np.fromfile(given["file"], given["dtype"]).reshape([job["samples"], *given["shape"]])
        for given in job["inputs"]
    ]
    load(job["runtime"])
    # What is resident now becomes the peak so far: `man 5 proc`, clear_refs.
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    base = status("VmRSS:")
    start = time.perf_counter_ns()
    engine = RUNTIMES[job["runtime"]](job, inputs)
    engine.select(0)
    engine.run()
    cold_ns = time.perf_counter_ns() - start
    answer(channel, {"cold_ns": cold_ns, "base_bytes": base, "peak_bytes": status("VmHWM:")})
    for line in requests:
        match line.split():
            case ["run", warm_up, runs]:
                answer(channel, {"ns": timed(engine.run, int(warm_up), int(runs))})
            case ["outputs", folder]:
                answer(channel, {"outputs": write_outputs(engine, job["samples"], folder)})
            case _:
                raise ValueError(f"unknown request {line!r}")


def main():
    # Libraries print to standard output as they like; answers go out where it was.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    try:
        serve(job, sys.stdin, channel)
    except Exception as error:  # whatever a runtime raises is the reason why it has no time
        text = str(error).strip() or type(error).__name__
        answer(channel, {"error": text})


if __name__ == "__main__":
    main()
