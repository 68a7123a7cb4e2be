"""One request to an OpenAI-compatible server (vLLM, llama.cpp, Ollama, OpenAI ...): what came back, or why nothing did."""

import io
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any, Literal, NamedTuple

from sae.errors import ConfigError, UnavailableError

MAX_BYTES = 2**22
"""Of an answer; more is none."""
UNREADABLE = ("length", "refusal", "content_filter")
"""Reasons to finish after which there is no whole answer, nor would there be one if asked again."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHORTEST_KEY = 8
"""Characters of a key that is kept secret; shorter ones (`x`, `none`, `EMPTY`) are what servers that want none are given, and
to take them out of an answer would spoil it."""


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Section `judge`. The key is in no field: it is read from the environment for each request."""

    base_url: str = ""
    """Up to and with `/v1`, such as http://127.0.0.1:8000/v1. Empty: no judge is asked, and nothing needs a network."""
    model: str = ""
    """As the server names it."""
    api_key_env: str = "SAE_JUDGE_KEY"
    """Name of the environment variable that holds the key; none is sent where it is unset."""
    n_units: int = 50
    """Units of each population that are judged, drawn by chance of those that are counted."""
    cache: str = "data/judge"
    """Folder of the answers (stage `interpret`): what it knows is not asked, nor paid for, again."""
    tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the most that it may answer; some of OpenAI's newer models know the latter only."""
    body: dict[str, Any] = field(default_factory=dict)
    """Further fields of each request, such as {reasoning_effort: low}; null takes one away: {seed: null, temperature: null}."""
    explain_temperature: float = 0.0
    score_temperature: float = 0.0
    explain_max_tokens: int = 200
    """Of an explanation, at most."""
    score_max_tokens: int = 1500
    """Of an answer about one batch of texts, at most."""
    token_budget: int = 1_000_000
    """Tokens of prompts and answers together that the server may be asked for; what the cache knows costs none."""
    timeout: float = 120.0
    """Seconds for one answer."""
    max_attempts: int = 5
    """Of one request; then it counts as failed."""
    backoff: float = 1.0
    """Seconds before the second attempt, doubled for each further one."""
    max_wait: float = 300.0
    """Seconds before an attempt at most; a server that says to wait longer is not asked again."""
    concurrency: int = 4
    """Requests at once."""
    seed: int = 0
    """Sent with each request, and of the choice of units and texts."""

    def __post_init__(self) -> None:
        self._check_numbers()
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):  # perhaps the key itself, which is not repeated
            raise ConfigError("'api_key_env' is the name of an environment variable (such as SAE_JUDGE_KEY), never the key")
        if reserved := sorted({"model", "messages", "max_tokens", "max_completion_tokens", "stream", "n"} & self.body.keys()):
            raise ConfigError(f"'body' sets {', '.join(reserved)}: the cache, the budget and the reader rest on what these are")
        if not self.base_url:
            return
        if not self.model:
            raise ConfigError("'base_url' is given and 'model' is not; name it as the server does")
        parts = _address(self.base_url)
        if parts is None:
            raise ConfigError(f"'base_url' = {self.base_url!r}: must be http:// or https://, such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError(
                "'base_url' holds a user, a password, a query or a fragment: put the key into the variable named by 'api_key_env'"
            )

    def _check_numbers(self) -> None:
        positive = ("explain_max_tokens", "score_max_tokens", "token_budget", "max_attempts", "concurrency", "timeout", "n_units")
        for name in positive:
            if getattr(self, name) <= 0:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must be above 0")
        for name in ("explain_temperature", "score_temperature", "backoff", "max_wait", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must not be negative")


class Reply(NamedTuple):
    """An answer of the server."""

    text: str
    finish_reason: str
    """`stop`; `length` where it was cut off; `refusal` or `content_filter` where there is no text for that reason."""
    n_tokens: int | None
    """Of prompt and answer, as the server counts; None where it does not say."""


class Trouble(NamedTuple):
    """No answer. Asking again may bring one, but where this request was `rejected`."""

    reason: str
    """`rate_limit`, `server`, `connection`, `timeout`, `bad_json`, `empty` or `rejected` (400, 413, 422: too long, filtered)."""
    retry_after: float | None
    """Seconds to wait, where the server says so."""
    may_have_cost: bool
    """The server may have worked, so that the tokens count as spent."""
    said: str = ""
    """By a server that rejected a request, without the key."""


def _address(url: str) -> urllib.parse.SplitResult | None:
    """Its parts; None for what no request can be sent to."""
    try:
        parts = urllib.parse.urlsplit(url)
        (parts.hostname or "").encode("idna")
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not re.search(r"\s", url)
    except ValueError:  # brackets that do not close, a port beyond 65535, a label that is empty or too long
        return None
    return parts if known else None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host. Where it leads to is not even read."""

    def http_error_302(self, *_: Any, **__: Any) -> None:
        return None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Until(io.RawIOBase):
    """What a socket brings before `deadline`: its own timeout begins anew with every byte of a server that drips."""

    def __init__(self, socket: Any, reader: io.RawIOBase, deadline: float):
        self._socket, self._reader, self._deadline = socket, reader, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        return self._reader.readinto(buffer)

    def close(self) -> None:
        self._reader.close()
        super().close()


class _Response(HTTPResponse):
    """All of it, from the first line on, comes within `seconds`."""

    def __init__(self, sock: Any, *given: Any, seconds: float, **options: Any):
        super().__init__(sock, *given, **options)
        self.fp = io.BufferedReader(_Until(sock, self.fp.detach(), time.monotonic() + seconds))


def _connection(kind: Any, *given: Any, timeout: float, **options: Any) -> HTTPConnection:
    made: HTTPConnection = kind(*given, timeout=timeout, **options)
    made.response_class = partial(_Response, seconds=timeout)  # type: ignore[assignment]
    return made


class _Http(urllib.request.HTTPHandler):
    def do_open(self, http_class: Any, req: urllib.request.Request, **options: Any) -> HTTPResponse:
        return super().do_open(partial(_connection, http_class), req, **options)


class _Https(urllib.request.HTTPSHandler):
    def do_open(self, http_class: Any, req: urllib.request.Request, **options: Any) -> HTTPResponse:
        return super().do_open(partial(_connection, http_class), req, **options)


def request(config: JudgeConfig, body: dict[str, Any], now: float) -> Reply | Trouble:
    """POST `body` to /chat/completions; `now` is the time (seconds since 1970) that a Retry-After date is set against.

    Raises `UnavailableError` where the server refuses in a way that no other request mends (key, name of the model),
    `ConfigError` where the key would travel in the clear, or can be none.
    """
    address = f"{config.base_url.rstrip('/')}/chat/completions"
    message = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST")
    key, parts = _key(config), urllib.parse.urlsplit(address)
    local = parts.hostname in LOOPBACK
    if key and parts.scheme == "http" and not local:
        raise ConfigError(
            f"the key in {config.api_key_env} would travel in the clear to {parts.hostname}: use https, or unset it"
        )
    if key:
        message.add_unredirected_header("Authorization", f"Bearer {key}")
    handlers: list[Any] = [_NoRedirects(), _Http(), _Https(), *([urllib.request.ProxyHandler({})] if local else [])]
    try:
        with urllib.request.build_opener(*handlers).open(message, timeout=config.timeout) as answer:
            return _read(_whole(answer), key)
    except urllib.error.HTTPError as error:
        return _refused(error, config, key, now)
    except TimeoutError:
        return Trouble("timeout", None, True)
    except urllib.error.URLError as error:
        return Trouble("timeout" if isinstance(error.reason, TimeoutError) else "connection", None, False)
    except (HTTPException, OSError):
        return Trouble("connection", None, True)


def _key(config: JudgeConfig) -> str:
    """From the environment. One that no header can hold is named, not shown (http.client's own error would show it)."""
    key = os.environ.get(config.api_key_env, "").strip()
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise ConfigError(f"the key in {config.api_key_env} has characters that no key has (spaces, line ends, not ASCII)")
    return key


def _whole(answer: Any) -> bytes:
    parts: list[bytes] = []
    while (part := answer.read1(2**16)) and sum(map(len, parts)) <= MAX_BYTES:
        parts.append(part)
    return b"".join(parts)


def _without(key: str, said: str) -> str:
    """A server may repeat what it was sent."""
    return said.replace(key, "(key)") if len(key) >= SHORTEST_KEY else said


def _refused(error: urllib.error.HTTPError, config: JudgeConfig, key: str, now: float) -> Trouble:
    if error.code == 429:
        return Trouble("rate_limit", _seconds(error.headers.get("Retry-After"), now), False)
    if error.code >= 500 or error.code in (408, 409, 425):
        return Trouble("server", _seconds(error.headers.get("Retry-After"), now), False)
    try:
        raw = error.read(2**16)
    except (HTTPException, OSError):
        raw = b""
    whole = raw.decode("utf-8", errors="replace").replace("\\/", "/")  # as some write a slash in JSON, in keys too
    said = _without(key, whole)[:500].strip() or "nothing said"  # first the key, then the cut
    told = f"{config.base_url} refuses model {config.model!r} with status {error.code}: {said}"
    if error.code in (400, 413, 422):
        return Trouble("rejected", None, False, told)
    raise UnavailableError(f"{told}; look at judge.base_url, judge.model and the key in {config.api_key_env}") from None


def _seconds(header: str | None, now: float) -> float | None:
    """Retry-After is a number of seconds or a date."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _read(raw: bytes, key: str) -> Reply | Trouble:
    try:
        answer = json.loads(raw)
        choice = answer["choices"][0]
        text, reason = choice["message"]["content"] or "", choice.get("finish_reason") or "stop"
        refused = choice["message"].get("refusal")
        usage = answer.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return Trouble("bad_json", None, True)
    if not isinstance(text, str) or not isinstance(reason, str):
        return Trouble("bad_json", None, True)
    if refused and not text.strip():
        reason = "refusal"
    if not text.strip() and reason not in UNREADABLE:
        return Trouble("empty", None, True)
    known = [count for count in counts if isinstance(count, int) and count >= 0]
    return Reply(_without(key, text), _without(key, reason), sum(known) if len(known) == 2 else None)
