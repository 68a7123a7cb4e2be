"""The judge against a server on loopback: faults, waiting, budget, cache, and what becomes of the key."""

import threading
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import pytest

from sae.errors import BudgetError, ConfigError, UnavailableError
from sae.interpret.endpoint import JudgeConfig, Trouble, request
from sae.interpret.judge import Judge
from tests.interpret.stub import Stub

MESSAGES = [{"role": "user", "content": "what is it?"}]
KEY = "sk-very-secret"


def judge_of(stub, path, waits=None, **options):
    options = {"backoff": 1.0, "timeout": 5.0, **options}
    waited = [] if waits is None else waits
    return Judge(JudgeConfig(base_url=stub.url, model="stub", **options), path, sleep=waited.append)


def ask(judge, content="what is it?"):
    return judge.complete([{"role": "user", "content": content}], max_tokens=50, temperature=0.0)


@pytest.mark.parametrize(
    ("fault", "reason"), [(429, "rate_limit"), (500, "server"), (503, "server"), ("bad_json", "bad_json"), ("empty", "empty")]
)
def test_a_fault_is_asked_again(tmp_path, fault, reason):
    waits = []
    with Stub(lambda _: "tea", [fault, fault]) as stub:
        judge = judge_of(stub, tmp_path, waits)
        assert ask(judge).text == "tea"
        assert judge.counts == {"sent": 3, reason: 2}
    assert 0.75 <= waits[0] <= 1.25
    assert 1.5 <= waits[1] <= 2.5


def test_retry_after_is_honoured(tmp_path):
    waits = []
    with Stub(lambda _: "tea", [(429, "17"), (503, formatdate(4e9, usegmt=True))]) as stub:
        judge = judge_of(stub, tmp_path, waits)
        assert ask(judge) is None  # the second names a day in 2096: longer than max_wait
        assert judge.counts == {"sent": 2, "rate_limit": 1, "server": 1, "failed": 1}
        assert waits == [17]


def test_a_date_to_wait_for(tmp_path):
    with Stub(lambda _: "tea", [(429, formatdate(1000, usegmt=True)), (429, "soon")]) as stub:
        config = JudgeConfig(base_url=stub.url, model="stub")
        body = {"messages": MESSAGES, "model": "stub"}
        assert request(config, body, now=970.0) == Trouble("rate_limit", 30.0, False)
        assert request(config, body, now=970.0) == Trouble("rate_limit", None, False)


def test_who_never_answers_is_given_up(tmp_path):
    with Stub(lambda _: "tea", ["hang"] * 2) as stub:
        judge = judge_of(stub, tmp_path, max_attempts=2, timeout=0.1)
        assert ask(judge) is None
        assert judge.counts == {"sent": 2, "timeout": 2, "failed": 1}
        assert judge.spent >= 2 * 50  # it may have worked on both
        assert ask(judge).text == "tea"  # a failure is not kept
    gone = judge_of(stub, tmp_path / "other", max_attempts=1)
    assert ask(gone) is None
    assert gone.counts["connection"] == 1


def test_an_answer_cut_off_is_told_and_kept(tmp_path):
    with Stub(lambda _: "te", ["length"]) as stub:
        for cached in (0, 1):
            judge = judge_of(stub, tmp_path)
            assert ask(judge).finish_reason == "length"
            assert (judge.counts["length"], judge.counts["cached"]) == (1, cached)
        assert len(stub.seen) == 1


def test_a_second_run_asks_nothing(tmp_path):
    with Stub(lambda messages: messages[0]["content"].upper()) as stub:
        judge = judge_of(stub, tmp_path)
        assert [ask(judge, text).text for text in "aba"] == ["A", "B", "A"]
        again = judge_of(stub, tmp_path)
        assert [ask(again, text).text for text in "ab"] == ["A", "B"]
        assert (again.counts, again.spent, len(stub.seen)) == ({"cached": 2}, 0, 2)
        judge_of(stub, tmp_path, seed=1).complete(MESSAGES, max_tokens=50, temperature=0.0)
        assert len(stub.seen) == 3  # another seed is another request
        for file in tmp_path.rglob("*.json"):
            file.write_text('{"reply": {')
        assert ask(judge_of(stub, tmp_path), "a").text == "A"  # a damaged entry is none


def test_the_budget_stops(tmp_path):
    """25 tokens an answer; a request is let through only where its upper bound, 1 byte + 64 + 50, fits too."""
    with Stub(lambda _: "tea") as stub:
        judge = judge_of(stub, tmp_path, token_budget=180)
        for text in "abc":
            ask(judge, text)
        with pytest.raises(BudgetError, match=r"token_budget = 180 is spent: 75 tokens used, 0 in flight.*may take 119"):
            ask(judge, "d")
        assert judge.spent == 75
        assert len(stub.seen) == 3
        assert ask(judge, "a").text == "tea"  # what is known costs nothing


def test_an_unknown_cost_counts_at_its_bound(tmp_path):
    with Stub(lambda _: "tea", ["no_usage"]) as stub:
        judge = judge_of(stub, tmp_path)
        ask(judge, "a")
        assert judge.spent == len("user") + len("a") + 64 + 50


def test_no_more_at_once_than_allowed(tmp_path):
    with Stub(lambda _: "tea") as stub:
        stub.barrier = threading.Barrier(3)  # passes where three are in flight together
        judge = judge_of(stub, tmp_path, concurrency=3)
        with ThreadPoolExecutor(9) as pool:
            list(pool.map(lambda i: ask(judge, str(i)), range(9)))
        assert stub.most_in_flight == 3


def test_the_key_goes_nowhere_but_into_the_header(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SAE_JUDGE_KEY", KEY)
    with Stub(lambda _: "tea", [401, None, "redirect"]) as stub:
        judge = judge_of(stub, tmp_path)
        with pytest.raises(UnavailableError, match=r"status 401.*\(key\)") as caught:
            ask(judge)
        ask(judge)
        with pytest.raises(UnavailableError, match="status 302"):
            ask(judge, "another")
        assert stub.authorizations == [f"Bearer {KEY}"] * 3  # a redirect is not followed
    kept = "".join(file.read_text() for file in tmp_path.rglob("*.json"))
    assert kept
    for said in (str(caught.value), kept, repr(judge.config), *capsys.readouterr()):
        assert KEY not in said
    with pytest.raises(ConfigError, match="in the clear"):
        request(JudgeConfig(base_url="http://judge.invalid/v1", model="x"), {}, 0.0)


def test_what_cannot_be_is_refused():
    for url in ("127.0.0.1:8000", "ftp://x/v1", "https://me:pw@x/v1"):
        with pytest.raises(ConfigError, match="base_url"):
            JudgeConfig(base_url=url, model="x")
    with pytest.raises(ConfigError, match="'token_budget' = 0"):
        JudgeConfig(base_url="http://x/v1", model="x", token_budget=0)
