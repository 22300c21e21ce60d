"""A headless Chromium, driven over the WebDriver protocol, and the page's folder on a server of this machine alone."""

import base64
import functools
import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# WebDriver's name of the key that holds an element's reference.
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def chromium():
    """The browser, or None."""
    return next(filter(None, map(shutil.which, CHROMIUMS)), None)


class Server:
    """Serves `folder` on the loopback device, and the folder `cases` under that name; `requests` are the paths asked for."""

    def __init__(self, folder, cases=None):
        self.requests = requests = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def translate_path(self, path):
                if cases and path.startswith("/cases/"):
                    return str(Path(cases) / Path(path).name)
                return super().translate_path(path)

            def log_request(self, code="-", size="-"):
                requests.append(self.path)

            def log_message(self, *_):
                pass

        handler = functools.partial(Handler, directory=folder)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class Browser:
    """One window."""

    def __init__(self, *switches, size=(1200, 900), preferences=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._base = f"http://127.0.0.1:{port}"
        self.wait(lambda: self._ready(), "chromedriver starts")
        # Chromium's own sandbox does not start as root, as in a container.
        sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        options = {
            "binary": chromium(),
            "args": ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                     f"--window-size={size[0]},{size[1]}", *sandbox, *switches],
            "prefs": preferences or {},
        }
        capabilities = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options,
                                        "goog:loggingPrefs": {"browser": "ALL"}}}
        try:
            session = self._call("POST", "/session", {"capabilities": capabilities})["sessionId"]
        except BaseException:
            self._stop()
            raise
        self._base += f"/session/{session}"

    def _ready(self):
        try:
            return self._call("GET", "/status")["ready"]
        except urllib.error.URLError:
            return False

    def _call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"].splitlines()[0]) from None

    def open(self, url):
        self._call("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        """What the script returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": arguments})

    def element(self, selector):
        return self._call("POST", "/element", {"using": "css selector", "value": selector})

    def click(self, selector):
        self._call("POST", f"/element/{self.element(selector)[ELEMENT]}/click", {})

    def choose(self, selector, path):
        """Chooses a file for an input."""
        self._call("POST", f"/element/{self.element(selector)[ELEMENT]}/value", {"text": str(path)})

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def console(self):
        """Errors that the page wrote to the console since this was last called."""
        entries = self._call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def screenshot(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self._call("GET", "/screenshot")))

    @staticmethod
    def wait(holds, what, seconds=60):
        """Waits until `holds()`, and returns what it returned."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := holds():
                return value
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s: {what}")

    def close(self):
        try:
            self._call("DELETE", "")
        finally:
            self._stop()

    def _stop(self):
        self._driver.terminate()
        self._driver.wait()
