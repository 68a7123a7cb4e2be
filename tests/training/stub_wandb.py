"""A W&B server on loopback: as much of its protocol as wandb 0.31 needs for a run, or a server that accepts and never answers."""

import json
import re
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Keeps the history rows it was sent, by their place in the run's file, as W&B does."""

    daemon_threads = True

    def __init__(self, port: int = 0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.history: dict[int, dict] = {}
        self.exit_code: int | None = None
        self.started = threading.Event()
        self._connections: list[socket.socket] = []
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def rows(self) -> list[dict]:
        return [self.history[place] for place in sorted(self.history)]

    def die(self) -> None:
        """Refuses from now on, and hangs up."""
        self.shutdown()
        self.server_close()
        self.thread.join()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request, client_address) -> None:
        self._connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is no matter."""

    def take(self, body: dict) -> None:
        sent = body.get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
        for place, line in enumerate(sent["content"], start=sent["offset"]):
            self.history[place] = json.loads(line)
        self.exit_code = body.get("exitcode", self.exit_code)

    def answer(self, operation: str, variables: dict) -> dict:
        project = {"id": "p", "name": "sae", "entity": {"id": "e", "name": "somebody"}}
        if operation == "UpsertBucket":
            self.started.set()
            bucket = {"id": "b", "name": variables["name"], "displayName": "A/1", "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": not self.history}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/files/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        if operation == "RunResumeStatus":
            return {"model": {**project, "bucket": self._standing()}}
        return {}

    def _standing(self) -> dict | None:
        if not self.history:
            return None
        last = self.rows[-1]
        counts = {"logLineCount": 0, "eventsLineCount": 0, "historyLineCount": len(self.history)}
        tails = {"historyTail": json.dumps([json.dumps(last)]), "eventsTail": json.dumps(["{}"])}
        about = {"summaryMetrics": "{}", "displayName": "A/1", "config": "{}", "wandbConfig": json.dumps({"t": 1})}
        return counts | tails | about


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format, *args) -> None: ...

    def do_POST(self) -> None:
        body = self._body()
        if "file_stream" in self.path:
            self.server.take(body)
            return self._reply({})
        named = re.search(r"(?:query|mutation)\s+(\w+)", body.get("query", ""))
        return self._reply({"data": self.server.answer(named[1] if named else "", body.get("variables") or {})})

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._reply({})

    def _body(self) -> dict:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            return json.loads(raw)
        except ValueError:
            return {}

    def _reply(self, answer: dict) -> None:
        sent = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)


class Staller:
    """Accepts connections (the kernel does) and never answers."""

    def __init__(self):
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        self._socket.close()
