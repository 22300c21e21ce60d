"""The page in a headless Chromium: run by `targets/web/check`.

Usage: python3 page.py PAGE FBANK_MODEL [SCREENSHOT]
PAGE is the assembled folder; FBANK_MODEL a file that takes filter banks.
"""

import shutil
import sys
import tempfile
import unittest
import wave
from pathlib import Path

from browser import Browser, Server

ZOO = Path(__file__).parents[3] / "models" / "zoo" / "kws12"
WORDS = ("yes", "stop", "left")
# A recording that was chosen is dropped as a person would: with an event that carries it.
DROP = """
    const data = new DataTransfer();
    data.items.add(new File([Uint8Array.from(arguments[0])], arguments[1]));
    document.querySelector('#drop').dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
"""


def samples(word):
    with wave.open(str(ZOO / f"{word}.wav")) as file:
        return file.readframes(file.getnframes())


def write_stream(path, words):
    """One second of silence around each word."""
    silence = bytes(32_000)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", "not compressed"))
        file.writeframes(silence + b"".join(samples(word) + silence for word in words))


class Page(unittest.TestCase):
    page, fbank, screenshot = None, None, None

    @classmethod
    def setUpClass(cls):
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.server = Server(cls.page)
        cls.addClassCleanup(cls.server.close)

    def browser(self, *switches, path="", **options):
        browser = Browser(*switches, **options)
        self.addCleanup(browser.close)
        browser.open(self.server.url + path)
        return browser

    def loaded(self, *switches, **options):
        browser = self.browser(*switches, **options)
        browser.wait(lambda: browser.run("return document.body.dataset.ready") == "true", "the model loads")
        return browser

    def drop(self, browser, path):
        browser.run(DROP, list(path.read_bytes()), path.name)

    def heard(self, browser):
        return browser.run("return [...document.querySelectorAll('#events li')].map((event) => event.dataset.label)")

    def problem(self, browser, words):
        browser.wait(lambda: words in browser.text("#problem"), f"the page says: {words}")
        self.assertFalse(browser.run("return document.querySelector('#problem').hidden"))

    def test_a_dropped_recording_is_heard_without_the_network(self):
        browser = self.loaded()
        loaded = len(self.server.requests)
        for count, word in enumerate(WORDS, 1):
            self.drop(browser, ZOO / f"{word}.wav")
            browser.wait(lambda count=count: len(self.heard(browser)) == count, f"{word} is heard")
            self.assertEqual(self.heard(browser)[0], word)
            self.assertEqual(browser.text("#heard"), word)
        scores = browser.run("return [...document.querySelectorAll('#bars li')].map((row) => [row.querySelector('.name').textContent, parseInt(row.querySelector('.score').textContent)])")
        self.assertEqual(len(scores), 12)
        # As `ssamba-edge run` says: 0.986.
        self.assertEqual(max(scores, key=lambda row: row[1]), ["left", 99])
        self.assertRegex(browser.text("#latency"), r"^\d+\.\d ms$")
        colours = browser.run("const c = document.querySelector('#spectrogram'); return new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size")
        self.assertGreater(colours, 1000)
        self.assertEqual(self.server.requests[loaded:], [])
        self.assertEqual(browser.console(), [])

    def test_a_word_is_found_in_a_long_recording_that_is_chosen(self):
        long = self.folder / "long.wav"
        write_stream(long, ["stop"])
        browser = self.loaded()
        browser.choose("#file", long)
        self.assertEqual(browser.wait(lambda: self.heard(browser), "a word is heard"), ["stop"])

    def test_of_a_recording_that_is_too_long_the_start_is_heard(self):
        long = self.folder / "too-long.wav"
        write_stream(long, ["left", *["stop"] * 11])
        browser = self.loaded()
        browser.choose("#file", long)
        browser.wait(lambda: "of which the first 20 s were heard" in browser.text("#shown"), "it says so", seconds=120)

    def test_the_microphone_is_heard(self):
        stream = self.folder / "microphone.wav"
        write_stream(stream, WORDS)
        browser = self.loaded(
            "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={stream}",
        )
        browser.click("#listen")
        browser.wait(lambda: browser.text("#listen") == "Stop", "it listens")
        # The recording starts again when it ends: a machine that is slow for a moment hears a word later.
        browser.wait(lambda: set(WORDS) <= set(self.heard(browser)), "three words are heard", seconds=60)
        if self.screenshot:
            browser.screenshot(self.screenshot)
        self.assertEqual(set(self.heard(browser)), set(WORDS))
        browser.click("#listen")
        browser.wait(lambda: browser.text("#listen") == "Listen", "it stops")
        self.assertEqual(browser.console(), [])

    def test_no_microphone_is_said(self):
        browser = self.loaded("--deny-permission-prompts")
        browser.click("#listen")
        self.problem(browser, "icrophone")
        self.assertEqual(browser.text("#listen"), "Listen")

    def test_what_is_not_audio_is_said_and_the_page_goes_on(self):
        browser = self.loaded()
        self.drop(browser, ZOO / "kws12.toml")
        self.problem(browser, "“kws12.toml” is not audio")
        self.drop(browser, ZOO / "yes.wav")
        browser.wait(lambda: self.heard(browser) == ["yes"], "yes is heard")
        self.assertTrue(browser.run("return document.querySelector('#problem').hidden"))

    def test_a_model_that_takes_filter_banks_is_refused(self):
        browser = self.loaded()
        browser.choose("#file", self.fbank)
        self.problem(browser, "--frontend waveform")

    def test_a_folder_without_a_model_is_said(self):
        bare = self.folder / "bare"
        shutil.copytree(self.page, bare, ignore=shutil.ignore_patterns("node_modules", "model.onnx"))
        server = Server(bare)
        self.addCleanup(server.close)
        browser = Browser()
        self.addCleanup(browser.close)
        browser.open(server.url)
        self.problem(browser, "no model.onnx beside the page")


if __name__ == "__main__":
    Page.page, Page.fbank = (str(Path(path).absolute()) for path in sys.argv[1:3])
    Page.screenshot = next(iter(sys.argv[3:]), None)
    unittest.main(argv=sys.argv[:1])
