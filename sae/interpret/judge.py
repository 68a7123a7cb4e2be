"""`Judge`: asks a server, again where that helps, so many at once at most, within a budget of tokens, and nothing twice."""

import hashlib
import json
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sae.errors import BudgetError, UnavailableError
from sae.interpret.endpoint import UNREADABLE, JudgeConfig, Reply, Trouble, request
from sae.paths import given

SCHEMA = 2
"""Of the cache's entries; a change of what is sent makes other names by itself."""
Messages = list[dict[str, str]]
OVERHEAD = 64
"""Tokens that a server's chat template may add to the messages."""


class Judge:
    """`complete(messages, ...)` gives the answer, or None where every attempt failed; `counts` says what happened.

    Safe to call from threads. Answers lie in `cache` by the digest of the request, so that a second run asks nothing and one
    that stopped goes on. The key is part of neither.
    """

    def __init__(self, config: JudgeConfig, cache: str | Path, sleep: Callable[[float], None] = time.sleep):
        self.config, self.cache = config, given(cache)
        self.counts: Counter[str] = Counter()
        """Attempts `sent`; answers from the cache (`cached`), or without a whole text (`UNREADABLE`); requests `failed` for good;
        and attempts by their trouble: `rate_limit` and so on."""
        self.spent = 0
        """Tokens of this run. Those of an attempt without a known cost are counted at their upper bound."""
        self._reserved = 0
        self._answered = False
        self._sleep = sleep
        self._lock, self._slots = threading.Lock(), threading.Semaphore(config.concurrency)

    def complete(self, messages: Messages, *, max_tokens: int, temperature: float) -> Reply | None:
        """Raises `BudgetError` before a request that might exceed the budget, `UnavailableError` where the server refuses."""
        config = self.config
        body: dict[str, Any] = {"model": config.model, "messages": messages, config.tokens_field: max_tokens}
        body |= {"temperature": temperature, "seed": config.seed, **config.body}
        body = {name: value for name, value in body.items() if value is not None}
        path = self._path(body)
        reply = _load(path)
        if reply is not None:
            self._answered = True
            self._count("cached")
        else:
            with self._slots:
                reply = self._ask(body, max_tokens)
            if reply is not None:
                _save(path, body, reply)
        if reply is None or reply.finish_reason in UNREADABLE:
            self._count("failed" if reply is None else reply.finish_reason)
        return reply

    def _ask(self, body: dict[str, Any], max_tokens: int) -> Reply | None:
        # A token is at least one byte, so a prompt has no more tokens than bytes.
        bound = sum(len(part.encode()) for message in body["messages"] for part in message.values()) + OVERHEAD + max_tokens
        for attempt in range(self.config.max_attempts):
            self._reserve(bound)
            cost = bound  # where an error escapes
            try:
                got = request(self.config, body, time.time())
                cost = _cost(got, bound)
            finally:
                self._settle(bound, cost)
            if isinstance(got, Reply):
                self._answered = True
                return got
            self._count(got.reason)
            if got.reason == "rejected":
                self._give_up_on(got)
                return None
            wait = self.config.backoff * 2**attempt * random.uniform(0.75, 1.25)  # not all of them at once again
            wait = max(min(wait, self.config.max_wait), got.retry_after or 0.0)
            if wait > self.config.max_wait or attempt + 1 == self.config.max_attempts:
                return None
            self._sleep(wait)
        return None

    def _give_up_on(self, got: Trouble) -> None:
        """One request may be too long, or filtered; where none was ever answered it is the server or what it is told."""
        if not self._answered:
            raise UnavailableError(f"{got.said}; nothing was answered before: look at judge.base_url, judge.model and judge.body")

    def _reserve(self, bound: int) -> None:
        with self._lock:
            left = self.config.token_budget - self.spent - self._reserved
            if bound > left:
                raise BudgetError(
                    f"judge.token_budget = {self.config.token_budget:,} is spent: {self.spent:,} tokens used, {self._reserved:,} "
                    f"in flight, and the next request may take {bound:,}; answers so far are kept in {self.cache}, raise the "
                    "budget and run again to go on"
                )
            self._reserved += bound
            self.counts["sent"] += 1

    def _settle(self, bound: int, cost: int) -> None:
        with self._lock:
            self._reserved -= bound
            self.spent += cost

    def _count(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1

    def _path(self, body: dict[str, Any]) -> Path:
        named = json.dumps([SCHEMA, self.config.base_url.rstrip("/"), body], sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(named.encode()).hexdigest()
        return self.cache / digest[:2] / f"{digest}.json"


def _cost(got: Any, bound: int) -> int:
    if isinstance(got, Reply):
        return bound if got.n_tokens is None else got.n_tokens
    return bound if got.may_have_cost else 0


def _load(path: Path) -> Reply | None:
    """The answer in a cache's file; None where there is none, or it is damaged."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return Reply(**entry["reply"]) if entry["sha256"] == _digest(entry["reply"]) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _digest(reply: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(reply, sort_keys=True).encode()).hexdigest()


def _save(path: Path, body: dict[str, Any], reply: Reply) -> None:
    """Whole or not at all, also beside another writer of the same answer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    entry = {"request": body, "reply": reply._asdict(), "sha256": _digest(reply._asdict())}
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(entry, file)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
