"""Adds the columns of Node and Chromium to what `cargo bench --workspace --bench matrix` has measured.

Usage: python3 measure.py PAGE FOLDER [RUNS]
PAGE is the assembled page, FOLDER holds the cases, target/matrix. Writes FOLDER/results/node.json and chromium.json; one whose
program is missing is left out, and that is said.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from browser import Browser, Server, chromium


def node(page, folder, runs):
    """The column of Node, or None."""
    if not shutil.which("node"):
        return None
    done = subprocess.run(
        ["node", page / "measure.mjs", folder, str(runs)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def browser(page, folder, runs):
    """The column of Chromium, or None."""
    if not (chromium() and shutil.which("chromedriver")):
        return None
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
    for name, measured in ("node", node), ("chromium", browser):
        column = measured(page, folder, runs)
        if column is None:
            print(f"{name}: left out, it is not on the path", file=sys.stderr)
        elif "failed" in column:
            sys.exit(f"{name}: {column['failed']}")
        else:
            results = folder / "results"
            results.mkdir(exist_ok=True)
            (results / f"{name}.json").write_text(json.dumps(column, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
