"""The Node programs and the columns that they and Chromium fill: run by `targets/web/check`.

Usage: python3 node.py PAGE FBANK_MODEL
PAGE is the assembled folder; FBANK_MODEL a file that takes filter banks. Needs numpy and onnxruntime.
"""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
import onnxruntime
from measure import browser, node

ZOO = Path(__file__).parents[3] / "models" / "zoo" / "kws12"
TOLERANCE = 1e-4


class Node(unittest.TestCase):
    page, fbank = None, None

    def node(self, model, clip):
        return subprocess.run(["node", self.page / "node.mjs", model, clip], capture_output=True, text=True)

    def test_the_example_hears_the_words(self):
        # As `ssamba-edge run` says.
        for word, score in ("yes", 0.989), ("stop", 0.985), ("left", 0.986):
            done = self.node(self.page / "model.onnx", ZOO / f"{word}.wav")
            self.assertEqual(done.returncode, 0, done.stderr[-1000:])
            label, got = done.stdout.split()
            self.assertEqual(label, word)
            self.assertAlmostEqual(float(got), score, delta=0.002)

    def test_the_example_says_what_it_cannot_use(self):
        for model, words in [
            (self.fbank, "--frontend waveform"),
            (ZOO / "kws12.toml", "not an ONNX file"),
            (ZOO / "yes.wav", "not an ONNX file"),
        ]:
            done = self.node(model, ZOO / "yes.wav")
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(words, done.stderr)

    def test_a_column_has_errors_times_and_reasons(self):
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        model = self.fbank.read_bytes()
        (folder / "right.onnx").write_bytes(model)
        (folder / "cut.onnx").write_bytes(model[: len(model) // 2])
        fbank = np.random.default_rng(7).standard_normal((1, 98, 128), dtype=np.float32)
        session = onnxruntime.InferenceSession(str(self.fbank), providers=["CPUExecutionProvider"])
        (logits,) = session.run(["logits"], {"fbank": fbank})
        fbank.tofile(folder / "input.f32")
        case = {"input": "fbank", "shape": [1, 98, 128], "data": "input.f32"}
        right, off = logits[0].tolist(), (logits[0] + np.float32(0.5)).tolist()
        (folder / "cases.json").write_text(json.dumps([
            {"name": "right", "file": "right.onnx", "logits": right, **case},
            {"name": "off", "file": "right.onnx", "logits": off, **case},
            {"name": "cut", "file": "cut.onnx", "logits": right, **case},
        ]))
        for name, measured in ("Node", node), ("Chromium", browser):
            column = measured(self.page, folder, 3)
            if column is None:
                print(f"{name} was left out: it is not on the path", file=sys.stderr)
                continue
            right_cell, off_cell, cut_cell = column["cells"]
            print(f"{column['runtime']}: {right_cell}", file=sys.stderr)
            self.assertEqual([cell["case"] for cell in column["cells"]], ["right", "off", "cut"])
            self.assertTrue(0 < right_cell["max_abs_error"] < TOLERANCE, right_cell)
            self.assertGreater(right_cell["ms"], 0)
            self.assertAlmostEqual(off_cell["max_abs_error"], 0.5, delta=TOLERANCE)
            self.assertTrue(cut_cell["reason"])


if __name__ == "__main__":
    Node.page, Node.fbank = (Path(path).absolute() for path in sys.argv[1:3])
    unittest.main(argv=sys.argv[:1])
