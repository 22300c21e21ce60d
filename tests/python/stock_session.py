"""A model in ONNX Runtime as it comes from PyPI, without our library: the function body runs.

Usage: python3 stock_session.py MODEL
Reads requests from standard input and answers on standard output until the input ends. A request is, little-endian,
the number of input tensors, then for each the number of axes, the axes (uint32 each) and the values (float32). The
answer has the same form, with all outputs in the order of the graph, each led by its name (uint32 length, UTF-8).
"""

import struct
import sys

import numpy as np
import onnxruntime


def read_exactly(stream, count):
    data = stream.read(count)
    if len(data) != count:
        sys.exit(0)
    return data


def read_tensor(stream):
    (rank,) = struct.unpack("<I", read_exactly(stream, 4))
    shape = struct.unpack(f"<{rank}I", read_exactly(stream, 4 * rank))
    count = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(read_exactly(stream, 4 * count), dtype="<f4").reshape(shape)


def write_tensor(stream, tensor):
    stream.write(struct.pack(f"<I{tensor.ndim}I", tensor.ndim, *tensor.shape))
    stream.write(np.ascontiguousarray(tensor, dtype="<f4").tobytes())


def main():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    while True:
        (count,) = struct.unpack("<I", read_exactly(stdin, 4))
        feeds = dict(zip(names, [read_tensor(stdin) for _ in range(count)], strict=True))
        outputs = session.run(None, feeds)
        stdout.write(struct.pack("<I", len(outputs)))
        for value, output in zip(session.get_outputs(), outputs, strict=True):
            name = value.name.encode()
            stdout.write(struct.pack("<I", len(name)) + name)
            write_tensor(stdout, output)
        stdout.flush()


main()
