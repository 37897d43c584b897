"""Takes what Alertmanager sends: each notification becomes a line of a file. `python -m tests.receiver PORT FILE`."""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Receiver(BaseHTTPRequestHandler):
    """Writes down where a notification went, when it came and what it says."""

    told: Path

    def do_POST(self) -> None:
        """Take one notification."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.told.open("a") as out:
            out.write(json.dumps({"path": self.path, "at": time.time(), "body": body}) + "\n")
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing: the file says it."""


class Server(HTTPServer):
    """Lets all notifications of a storm in: what is refused comes again seconds later."""

    request_queue_size = 256


def main(port: str, told: str) -> None:
    """Serve until the end."""
    Receiver.told = Path(told)
    Receiver.told.touch()
    Server(("127.0.0.1", int(port)), Receiver).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
