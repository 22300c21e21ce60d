"""The installed package, on the bundled model: run by `targets/python/check`."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
import wave
from pathlib import Path

import numpy as np
import onnxruntime
import ssamba_edge

ZOO = Path(__file__).parents[3] / "models" / "zoo" / "kws12"
CHECKPOINT = ZOO / "kws12.safetensors"
WORDS = ("yes", "stop", "left")


def clip(word):
    with wave.open(str(ZOO / f"{word}.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")


def program(*arguments):
    return subprocess.run(["ssamba-edge", *map(str, arguments)], capture_output=True, text=True, check=True)


class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        folder = Path(cls.folder.name)
        cls.waveform, cls.fbank = folder / "waveform.onnx", folder / "fbank.onnx"
        program("export", CHECKPOINT, "--frontend", "waveform", "-o", cls.waveform)
        program("export", CHECKPOINT, "-o", cls.fbank)
        cls.model = ssamba_edge.load(cls.waveform)

    def test_everything_comes_from_the_environment(self):
        self.assertTrue(ssamba_edge.__file__.startswith(sys.prefix))
        self.assertTrue(ssamba_edge.ops_library().startswith(sys.prefix))
        self.assertTrue((Path(ssamba_edge.__file__).parent / "py.typed").is_file())

    def test_the_program_is_on_the_path(self):
        self.assertRegex(program("--version").stdout, r"^ssamba-edge \d")

    def test_the_library_is_small(self):
        self.assertLess(os.path.getsize(ssamba_edge.ops_library()), 1_000_000)

    def test_words_are_heard(self):
        self.assertEqual(self.model.sample_rate, 16_000)
        self.assertEqual(self.model.window, 15_920)
        for word in WORDS:
            result = self.model.run(clip(word), sample_rate=16_000)
            self.assertEqual(result.top()[0][0], word)
            self.assertEqual(result.scores.shape, (len(self.model.labels),))
            self.assertAlmostEqual(float(result.scores.sum()), 1.0, places=5)

    def test_scores_are_those_of_the_program(self):
        for word in WORDS:
            line = json.loads(program("run", self.waveform, ZOO / f"{word}.wav", "--json", "--top", "1").stdout)
            ((label, score),) = self.model.run(clip(word)).top()
            self.assertEqual(label, line["top"][0]["label"])
            self.assertAlmostEqual(score, line["top"][0]["score"], delta=1e-4)

    def test_with_and_without_the_library_the_numbers_are_the_same(self):
        plain = ssamba_edge.load(self.waveform, threads=1, use_ops_library=False)
        batch = np.stack([clip(word) for word in WORDS])
        ours, theirs = self.model.run(batch).logits, plain.run(batch).logits
        self.assertEqual(ours.shape, (3, 12))
        difference = np.abs(ours - theirs).max()
        # Equal to the bit would mean that one of them ran twice.
        self.assertGreater(difference, 0)
        self.assertLess(difference, 1e-4)

    def test_the_file_tests_itself(self):
        answer = self.model.selftest()
        self.assertTrue(answer)
        self.assertTrue(0 < answer.max_abs_error < 1e-3, answer)
        # The program asks the same question of the same file.
        line = json.loads(program("run", "--selftest", "--json", self.waveform).stdout)
        self.assertTrue(line["holds"])
        self.assertAlmostEqual(line["max_abs_error"], answer.max_abs_error, delta=1e-4)

    def test_a_file_that_computes_something_else_fails_its_test(self):
        # The first digit of what the test expects becomes another, so that nothing moves in the file.
        broken = Path(self.folder.name) / "broken.onnx"
        data = self.waveform.read_bytes()
        start = data.index(b'"values":[') + len(b'"values":[')
        digit = next(at for at in range(start, start + 8) if data[at : at + 1].isdigit())
        changed = b"7" if data[digit : digit + 1] != b"7" else b"3"
        broken.write_bytes(data[:digit] + changed + data[digit + 1 :])
        answer = ssamba_edge.load(broken).selftest()
        self.assertFalse(answer)
        self.assertGreater(answer.max_abs_error, 0.5)

    def test_a_file_without_a_test_says_so(self):
        bare = Path(self.folder.name) / "bare.onnx"
        program("export", CHECKPOINT, "--frontend", "waveform", "--no-selftest", "-o", bare)
        with self.assertRaisesRegex(ssamba_edge.ModelError, "--no-selftest"):
            ssamba_edge.load(bare).selftest()

    def test_a_session_of_ones_own_takes_the_library(self):
        options = onnxruntime.SessionOptions()
        options.register_custom_ops_library(ssamba_edge.ops_library())
        session = onnxruntime.InferenceSession(str(self.fbank), options)
        logits, *_ = session.run(None, {"fbank": np.zeros((1, 98, 128), np.float32)})
        self.assertEqual(logits.shape, (1, 12))

    def test_integers_and_floats_are_the_same_waveform(self):
        floats = clip("yes") / 32_768
        np.testing.assert_array_equal(self.model.run(floats).logits, self.model.run(clip("yes")).logits)

    def test_what_cannot_be_run_is_said(self):
        for waveform, sample_rate, words in [
            (np.zeros(16_000), 44_100, "44100 Hz, and the model takes 16000"),
            (np.zeros(399), None, "399 samples, and one frame takes 400"),
            (np.zeros((1, 2, 16_000)), None, r"shape \(1, 2, 16000\)"),
            (np.zeros((0, 16_000)), None, "empty"),
            (np.full(16_000, np.nan), None, "not finite"),
            (np.zeros(16_000, np.int32), None, "type int32"),
        ]:
            with self.assertRaisesRegex(ValueError, words):
                self.model.run(waveform, sample_rate=sample_rate)
        with self.assertRaisesRegex(ValueError, "no single order"):
            self.model.run(np.zeros((2, 16_000), np.float32)).top()

    def test_a_file_that_cannot_be_used_is_said(self):
        with self.assertRaisesRegex(ssamba_edge.ModelError, "--frontend waveform"):
            ssamba_edge.load(self.fbank)
        with self.assertRaisesRegex(FileNotFoundError, "none.onnx"):
            ssamba_edge.load("none.onnx")
        with self.assertRaisesRegex(ssamba_edge.ModelError, "cannot open"):
            ssamba_edge.load(ZOO / "kws12.toml")
        with self.assertRaisesRegex(ValueError, "0 threads"):
            ssamba_edge.load(self.waveform, threads=0)


unittest.main()
