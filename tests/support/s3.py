"""A real S3 server (moto's) on loopback, and a door before it that fails as it is told."""

import http.client
import os
import re
import socket
import struct
import threading
import urllib.request
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from moto.server import ThreadedMotoServer

ENVIRONMENT = re.compile("AWS_|AZURE_|GOOGLE_")


def flipped(data):
    return data[:-1] + bytes([data[-1] ^ 1])


class Server:
    """One for all tests of a process; each takes a bucket of its own."""

    def __init__(self):
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    def make_bucket(self, name):
        self._ask(name, method="PUT")

    def stored(self, url):
        """Names below `url` and their bytes, asked for past all code that is tested."""
        _, _, bucket, prefix = url.split("/", 3)
        keys = re.findall("<Key>([^<]*)</Key>", self._ask(f"{bucket}?list-type=2&prefix={prefix}").decode())
        return {key.removeprefix(prefix).lstrip("/"): self._ask(f"{bucket}/{key}") for key in keys}

    def _ask(self, path, method="GET"):
        signed = {
            "Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=a"
        }
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", method=method, headers=signed)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def stop(self):
        self._server.stop()


def set_environment(patch, port):
    """What a user of the server at `port` would have set, and nothing that the machine has."""
    for name in [name for name in os.environ if ENVIRONMENT.match(name)]:
        patch.delenv(name)
    patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    patch.setenv("AWS_REGION", "us-east-1")
    patch.setenv("AWS_ACCESS_KEY_ID", "a-key")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-test")


class Door(ThreadingHTTPServer):
    """Hands requests on to the server at `to`, but answers those that `faults` finds with a fault: each entry is for one request
    whose line holds its first word. `asked` are the request lines that came, `n_bytes` those of all answers' bodies."""

    daemon_threads = True

    def __init__(self, to):
        super().__init__(("127.0.0.1", 0), _Passing)
        self.to, self.port = to, self.server_address[1]
        self.faults: deque[tuple[str, str]] = deque()
        self.asked: list[str] = []
        self.n_bytes = 0
        self._turn, self.closing = threading.Lock(), threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.closing.set()
        self.shutdown()
        self.server_close()

    def fault_of(self, line):
        with self._turn:
            self.asked.append(line)
            if self.faults and self.faults[0][0] in line:
                return self.faults.popleft()[1]
            return ""

    def count(self, n_bytes):
        with self._turn:
            self.n_bytes += n_bytes

    def handle_error(self, request, address):
        """Connections that are cut on purpose say nothing."""


ANSWERS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "403": (403, "AccessDenied"),
    "301": (301, "PermanentRedirect"),
}


METHODS = ("GET", "PUT", "POST", "DELETE", "HEAD")


class _Passing(BaseHTTPRequestHandler):
    server: Door
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _pass(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fault_of(f"{self.command} {self.path}")
        if fault in ANSWERS:
            status, code = ANSWERS[fault]
            text = f"<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>".encode()
            return self._answer(status, [], text)
        if fault == "reset":
            return self._reset()
        if fault == "silence":
            self.server.closing.wait()
            return self._reset()
        if fault == "turn":
            body = flipped(body)
        onward = http.client.HTTPConnection("127.0.0.1", self.server.to, timeout=30)
        onward.request(self.command, self.path, body, dict(self.headers))
        answer = onward.getresponse()
        content = answer.read()
        onward.close()
        if fault == "flip":
            content = flipped(content)
        if fault == "lost":
            return self._reset()
        if fault == "cut":
            self._answer(answer.status, answer.getheaders(), content, only=len(content) // 2)
            return self._reset()
        return self._answer(answer.status, answer.getheaders(), content)

    def _answer(self, status, headers, content, only=None):
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        stated = {name.lower(): value for name, value in headers}.get("content-length")
        self.send_header("Content-Length", stated if self.command == "HEAD" and stated else str(len(content)))
        self.end_headers()
        self.server.count(len(content[:only]))
        self.wfile.write(content[:only])
        self.wfile.flush()

    def _reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


for method in METHODS:
    setattr(_Passing, f"do_{method}", _Passing._pass)
