"""An OpenAI-compatible server on loopback: answers by a rule, after faults that a test has ordered."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Stub(ThreadingHTTPServer):
    """`with Stub(rule, faults) as stub:` serves `stub.url`. `rule(messages)` gives the text. Each of `faults` befalls one
    request: a status, a pair of status and Retry-After, `bad_json`, `empty`, `length`, `redirect`, `no_usage` or `hang`."""

    daemon_threads = True
    cost = 25
    """Tokens of an answer, by its own account."""

    def __init__(self, rule, faults=()):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rule, self.faults = rule, list(faults)
        self.seen, self.authorizations = [], []
        self.in_flight = self.most_in_flight = 0
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.barrier = None

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
        if stub.barrier is not None:
            stub.barrier.wait(5)
        try:
            self._answer(fault, body)
        finally:
            with stub.lock:
                stub.in_flight -= 1

    def _answer(self, fault, body):
        if fault == "hang":
            self.server.closing.wait(5)
            return
        if fault == "redirect":
            self._send(302, b"", {"Location": self.server.url + "/elsewhere"})
            return
        if isinstance(fault, int | tuple):
            status, after = (fault, None) if isinstance(fault, int) else fault
            echoed = json.dumps({"error": {"message": f"no, {self.headers.get('Authorization')}"}}).encode()
            self._send(status, echoed, {} if after is None else {"Retry-After": after})
            return
        text = "" if fault == "empty" else self.server.rule(body["messages"])
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "length" if fault == "length" else "stop"}
        answer = {"choices": [choice], "usage": {"prompt_tokens": self.server.cost - 5, "completion_tokens": 5}}
        if fault == "no_usage":
            answer.pop("usage")
        self._send(200, b"{not json" if fault == "bad_json" else json.dumps(answer).encode(), {})

    def _send(self, status, content, headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
