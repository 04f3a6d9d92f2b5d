"""Drives the Python snippet: `drive.py add|flush|try FOLDER URL KEY SHORT_URL MARK COUNT`."""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "docs/clients/python"))
from click_queue import ClickQueue


def main() -> None:
    """`add` puts clicks into the queue; `flush` sends until it is empty; both say what is left and was refused.

    `try` sends until it would have to wait, with the snippet's own word on refusals; it says what is left, for how many
    ms it would wait, and why.
    """
    verb, folder, url, key, short_url, mark, count = sys.argv[1:]
    queue = ClickQueue(f"{folder}/clicks.db", url, key)
    if verb == "try":
        wait_s = queue.flush()
        found = {"wait_ms": wait_s and wait_s * 1_000, "error": queue.last_error}
    else:
        refused: list[str] = []
        queue.on_refused = lambda _, code, __: refused.append(code)
        for number in range(int(count)):
            queue.add(short_url, user_agent=f"{mark}/{number}")
        while verb == "flush" and (wait_s := queue.flush()) is not None:
            time.sleep(min(wait_s, 1.0))
        found = {"refused": refused}
    sys.stdout.write(json.dumps({"left": len(queue), **found}))


main()
