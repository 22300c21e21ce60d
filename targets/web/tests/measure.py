"""Fills the columns of Node and Chromium for a folder of exported files, see `measure.js` for what it holds.

Usage: python3 measure.py PAGE FOLDER [RUNS]
PAGE is the assembled folder. Prints JSON: for each of `node` and `chromium` the runtime and its rows, or why it was left out.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from browser import Browser, Server, chromium


def node(page, folder, runs):
    if not shutil.which("node"):
        return {"left_out": "no node on the path"}
    done = subprocess.run(
        ["node", page / "measure.mjs", folder, str(runs)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def browser(page, folder, runs):
    if not (chromium() and shutil.which("chromedriver")):
        return {"left_out": "no chromium with chromedriver on the path"}
    server = Server(page, cases=folder)
    window = Browser()
    try:
        window.open(f"{server.url}/measure.html?folder=cases&runs={runs}")
        window.wait(lambda: window.run("return document.title") == "done", "the runs end", seconds=600)
        return json.loads(window.text("pre"))
    finally:
        window.close()
        server.close()


def main():
    page, folder = (Path(path).absolute() for path in sys.argv[1:3])
    runs = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    json.dump({"node": node(page, folder, runs), "chromium": browser(page, folder, runs)}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
