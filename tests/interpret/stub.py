"""An OpenAI-compatible server on loopback: answers by a rule, after faults that a test has ordered."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Stub(ThreadingHTTPServer):
    """`with Stub(rule, faults) as stub:` serves `stub.url`. `rule(messages)` gives the text. Each of `faults` befalls one
    request: a status, a pair of status and Retry-After, or one of the words in `_Handler`."""

    daemon_threads = True
    cost = 25
    """Tokens of an answer, by its own account."""
    padding = 0
    """Characters before what a refusal says."""

    def __init__(self, rule, faults=()):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rule, self.faults = rule, list(faults)
        self.seen, self.authorizations = [], []
        self.in_flight = self.most_in_flight = 0
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.hold = None
        """Called while a request is in flight, before its answer."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self):
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        stub = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with stub.lock:
            stub.seen.append((self.path, body))
            stub.authorizations.append(self.headers.get("Authorization"))
            fault = stub.faults.pop(0) if stub.faults else None
            stub.in_flight += 1
            stub.most_in_flight = max(stub.most_in_flight, stub.in_flight)
        if stub.hold is not None:
            stub.hold()
        try:
            self._answer(fault, body)
        finally:
            with stub.lock:
                stub.in_flight -= 1

    def _answer(self, fault, body):
        if fault == "hang":
            self.server.closing.wait(60)
            return
        if fault == "truncated":  # the connection ends before what was promised
            content = self._chat(None, body)
            self._send(200, content[:-20], {}, length=len(content))
            return
        if fault == "drip":  # a byte now and then, so that no single wait is long
            self._send(200, b"", {}, length=100)
            while not self.server.closing.wait(0.05):
                self.wfile.write(b" ")
            return
        if fault in ("drip head", "drip refusal", "on and on"):
            self._raw(fault)
            return
        if fault == "redirect nowhere":
            self._send(302, b"", {"Location": "http://[no/"})
            return
        if fault == "redirect":
            self._send(302, b"", {"Location": self.server.url + "/elsewhere"})
            return
        if isinstance(fault, int | tuple):
            status, after = (fault, None) if isinstance(fault, int) else fault
            padding = "x" * self.server.padding
            echoed = json.dumps({"error": {"message": f"{padding} no, {self.headers.get('Authorization')}"}}).encode()
            self._send(status, echoed, {} if after is None else {"Retry-After": after})
            return
        self._send(200, self._chat(fault, body), {})

    def _raw(self, fault):
        """Bytes that never come to an end: of a header, of what a refusal says, of answers that announce another."""
        begins = {"drip head": b"HTTP/1.1 200 OK\r\nX: ", "drip refusal": b"HTTP/1.1 400 No\r\nContent-Length: 9999\r\n\r\n"}
        self.wfile.write(begins.get(fault, b""))
        while not self.server.closing.wait(0.05):
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" if fault == "on and on" else b"x")

    def _chat(self, fault, body):
        """The answer, spoilt as `fault` says."""
        text = "" if fault in ("empty", "refusal", "content_filter") else self.server.rule(body["messages"])
        reason = fault if fault in ("length", "content_filter") else "stop"
        message = {"role": "assistant", "content": text or None, "refusal": "I must not" if fault == "refusal" else None}
        logprobs = {"content": [{"token": "te", "logprob": -0.1, "top_logprobs": []}]} if fault == "logprobs" else None
        choice = {"message": message, "finish_reason": reason, "logprobs": logprobs}
        answer = {"choices": [choice], "usage": {"prompt_tokens": self.server.cost - 5, "completion_tokens": 5}}
        if fault == "no_usage":
            answer.pop("usage")
        if fault == "wrong_usage":
            answer["usage"]["completion_tokens"] = "five"
        if fault == "negative_usage":
            answer["usage"]["completion_tokens"] = -5
        if fault == "echo":
            message["content"] = self.headers.get("Authorization")
        if fault == "no_choices":
            answer["choices"] = []
        content = json.dumps(answer)
        if fault == "echo":
            content = content.replace("/", "\\/")  # as PHP writes it
        return b"{not json" if fault == "bad_json" else content.encode()

    def _send(self, status, content, headers, *, length=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(length or len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
