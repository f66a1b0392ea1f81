"""A chat server on this machine, which answers as a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Said:
    """What is sent back. trickle: seconds between two bytes."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    trickle: float = 0.0


def completion(text: Any, finish_reason: str = "stop", tokens: tuple[int, int] = (10, 2)) -> Said:
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return Said(body=json.dumps({"choices": [choice], "usage": usage}).encode())


@dataclass
class Server:
    """answer: the request's JSON and how many came before it -> what is sent back."""

    answer: Callable[[dict[str, Any], int], Said]
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)


@contextmanager
def chat_server(answer: Callable[[dict[str, Any], int], Said]) -> Iterator[Server]:
    server = Server(answer)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(server.requests)
                server.requests.append({"path": self.path, **request})
                server.keys.append(self.headers["Authorization"])
            said = server.answer(request, number)
            self.send_response(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(said.body)))
            self.end_headers()
            try:
                if not said.trickle:
                    self.wfile.write(said.body)
                for byte in said.body if said.trickle else b"":
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    server.stopped.wait(said.trickle)
            except OSError:  # the client has gone
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        server.stopped.set()
        http.shutdown()
        http.server_close()
