"""A model in stock ONNX Runtime without and with a library of operators, one thread each.

Usage: python3 ops_library.py MODEL LIBRARY [RUNS]
Prints one JSON object: the largest absolute difference of any output, how often each operator ran in either form, the
number of nodes, and, with RUNS, the milliseconds of the fastest of so many runs, taken in turns.
"""

import collections
import gc
import json
import os
import sys
import tempfile
import time

import numpy as np
import onnxruntime

OUR_OPS = ["SelectiveScan", "ShortConv"]


def open_session(model, library, profile=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if library:
        options.register_custom_ops_library(library)
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def nodes_of_a_run(model, library, feeds):
    """Kernels that one run calls, by type of operator."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(model, library, os.path.join(folder, "run"))
        session.run(None, feeds)
        with open(session.end_profiling(), encoding="utf-8") as profile:
            events = json.load(profile)
    return collections.Counter(
        event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")
    )


def fastest(sessions, feeds, runs):
    """Milliseconds of the fastest run of each session, in turns: the noise of the machine meets all."""
    best = [float("inf")] * len(sessions)
    for _ in range(runs):
        for index, session in enumerate(sessions):
            start = time.perf_counter()
            session.run(None, feeds)
            best[index] = min(best[index], 1e3 * (time.perf_counter() - start))
    return best


def main():
    model, library = sys.argv[1:3]
    runs = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    sessions = [open_session(model, None), open_session(model, library)]
    generator = np.random.default_rng(7)
    feeds = {
        value.name: generator.standard_normal(
            [size if isinstance(size, int) else 1 for size in value.shape], dtype=np.float32
        )
        for value in sessions[0].get_inputs()
    }
    without, with_library = (session.run(None, feeds) for session in sessions)
    # ONNX Runtime closes the library with its last session, and opens it again for the next.
    for _ in range(2):
        del sessions[1]
        gc.collect()
        sessions.append(open_session(model, library))
        for a, b in zip(with_library, sessions[1].run(None, feeds), strict=True):
            np.testing.assert_array_equal(a, b)
    nodes = [nodes_of_a_run(model, form, feeds) for form in (None, library)]
    report = {
        "max_abs_error": max(
            float(np.abs(a - b).max()) for a, b in zip(without, with_library, strict=True)
        ),
        "ops_without": {op: nodes[0][op] for op in OUR_OPS},
        "ops_with": {op: nodes[1][op] for op in OUR_OPS},
        "nodes_without": nodes[0].total(),
        "nodes_with": nodes[1].total(),
    }
    if runs:
        report["ms_without"], report["ms_with"] = fastest(sessions, feeds, runs)
        report["times_as_fast"] = report["ms_without"] / report["ms_with"]
    json.dump(report, sys.stdout)
    print()


main()
