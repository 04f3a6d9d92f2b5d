"""Drives the Python snippet: `drive.py add|flush FOLDER URL KEY SHORT_URL MARK COUNT`."""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "docs/clients/python"))
from click_queue import ClickQueue


def main() -> None:
    """`add` puts clicks into the queue; `flush` sends until it is empty; both say what is left and was refused."""
    verb, folder, url, key, short_url, mark, count = sys.argv[1:]
    refused: list[str] = []
    queue = ClickQueue(f"{folder}/clicks.db", url, key, lambda _, code, __: refused.append(code))
    if verb == "add":
        for number in range(int(count)):
            queue.add(short_url, user_agent=f"{mark}/{number}")
    else:
        while (wait_s := queue.flush()) is not None:
            time.sleep(min(wait_s, 1.0))
    sys.stdout.write(json.dumps({"left": len(queue), "refused": refused}))


main()
