"""The judge against a server on loopback: faults, waiting, budget, cache, and what becomes of the key."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from email.utils import formatdate
from functools import partial
from itertools import count
from types import SimpleNamespace

import pytest

from sae.errors import BudgetError, ConfigError, UnavailableError
from sae.interpret.endpoint import JudgeConfig, Trouble, request
from sae.interpret.judge import Judge
from tests.interpret.stub import Stub

MESSAGES = [{"role": "user", "content": "what is it?"}]
KEY = "sk-very/secret"


def judge_of(stub, path, waits=None, **options):
    options = {"backoff": 1.0, "timeout": 60.0, **options}
    waited = [] if waits is None else waits
    return Judge(JudgeConfig(base_url=stub.url, model="stub", **options), path, sleep=waited.append)


def ask(judge, content="what is it?"):
    return judge.complete([{"role": "user", "content": content}], max_tokens=50, temperature=0.0)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        *((429, "rate_limit"), (500, "server"), (503, "server"), (408, "server"), ("bad_json", "bad_json"), ("empty", "empty")),
        *(("truncated", "bad_json"), ("no_choices", "bad_json")),
    ],
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
        assert judge.spent == 0  # who says no has done nothing


def test_a_date_to_wait_for(tmp_path):
    never = "Wed, 21 Oct 99999999999 07:28:00 GMT"
    with Stub(lambda _: "tea", [(429, formatdate(1000, usegmt=True)), (429, "soon"), (429, never)]) as stub:
        config = JudgeConfig(base_url=stub.url, model="stub")
        body = {"messages": MESSAGES, "model": "stub"}
        assert request(config, body, now=970.0) == Trouble("rate_limit", 30.0, False)
        for _ in range(2):
            assert request(config, body, now=970.0) == Trouble("rate_limit", None, False)


def test_who_never_answers_is_given_up(tmp_path):
    with Stub(lambda _: "tea", ["hang"] * 2) as stub:
        waits = []
        judge = judge_of(stub, tmp_path, waits, max_attempts=2, timeout=0.1)
        assert ask(judge) is None
        assert len(waits) == 1  # nobody waits for nothing after the last
        assert judge.counts == {"sent": 2, "timeout": 2, "failed": 1}
        assert judge.spent >= 2 * 50  # it may have worked on both
        assert ask(judge_of(stub, tmp_path)).text == "tea"  # a failure is not kept
    gone = judge_of(stub, tmp_path / "other", max_attempts=1)
    assert ask(gone) is None
    assert gone.counts["connection"] == 1


@pytest.mark.parametrize(
    ("fault", "reason"), [("drip", "timeout"), ("drip head", "timeout"), ("on and on", "timeout"), ("drip refusal", "rejected")]
)
def test_a_server_that_drips_is_given_up(tmp_path, monkeypatch, fault, reason):
    """Wherever it does: each byte is there in time, all of them never. By the clock here every wait takes 20 s of the 60."""
    with Stub(lambda _: "tea", [None, fault]) as stub:
        ask(judge_of(stub, tmp_path))
        judge = judge_of(stub, tmp_path, max_attempts=1)
        ask(judge)  # from the cache: there is a server
        closing = threading.Timer(40, stub.closing.set)  # whatever becomes of the judge, the test ends
        closing.start()
        monkeypatch.setattr("sae.interpret.endpoint.time", SimpleNamespace(monotonic=count(0, 20).__next__))
        start = time.monotonic()
        assert ask(judge, "another") is None
        assert time.monotonic() - start < 30
        closing.cancel()
        assert judge.counts[reason] == 1


@pytest.mark.parametrize("fault", ["length", "refusal", "content_filter"])
def test_an_answer_without_a_whole_text_is_told_and_kept(tmp_path, fault):
    with Stub(lambda _: "te", [fault]) as stub:
        for cached in (0, 1):
            judge = judge_of(stub, tmp_path)
            assert ask(judge).finish_reason == fault
            assert (judge.counts[fault], judge.counts["cached"]) == (1, cached)
        assert len(stub.seen) == 1


def test_a_rejected_request_is_counted_and_not_asked_again(tmp_path):
    """One of many: too long, or filtered. Where none was ever answered, the run ends with what the server said."""
    with Stub(lambda _: "tea", [400, None, 400, 422]) as stub:
        with pytest.raises(UnavailableError, match=r"status 400: .*nothing was answered before"):
            ask(judge_of(stub, tmp_path), "a")
        judge = judge_of(stub, tmp_path)
        assert (ask(judge, "a").text, ask(judge, "b"), ask(judge, "c")) == ("tea", None, None)
        assert judge.counts == {"sent": 3, "rejected": 2, "failed": 2}
        stub.faults.append(413)
        again = judge_of(stub, tmp_path)
        assert (ask(again, "a").text, ask(again, "b")) == ("tea", None)  # what the cache holds was answered too


def test_what_is_sent(tmp_path):
    """The fields of the request, and those that the user adds, renames or takes away."""
    with Stub(lambda _: "tea", [None, "logprobs"]) as stub:
        ask(judge_of(stub, tmp_path, seed=7))
        body = {"reasoning_effort": "low", "seed": None, "temperature": None}
        assert ask(judge_of(stub, tmp_path, tokens_field="max_completion_tokens", body=body)).text == "tea"
    plain, changed = (body for _, body in stub.seen)
    assert plain == {"model": "stub", "messages": MESSAGES, "max_tokens": 50, "temperature": 0.0, "seed": 7}
    assert changed == {"model": "stub", "messages": MESSAGES, "max_completion_tokens": 50, "reasoning_effort": "low"}
    assert {path for path, _ in stub.seen} == {"/v1/chat/completions"}


def test_a_second_run_asks_nothing(tmp_path):
    with Stub(lambda messages: messages[0]["content"].upper()) as stub:
        judge = judge_of(stub, tmp_path)
        assert [ask(judge, text).text for text in "aba"] == ["A", "B", "A"]
        again = judge_of(stub, tmp_path)
        assert [ask(again, text).text for text in "ab"] == ["A", "B"]
        assert (again.counts, again.spent, len(stub.seen)) == ({"cached": 2}, 0, 2)
        judge_of(stub, tmp_path, seed=1).complete(MESSAGES, max_tokens=50, temperature=0.0)
        assert len(stub.seen) == 3  # another seed is another request


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda _: "",
        lambda _: '{"reply": {"text": 5, "finish_reason": "stop", "n_tokens": 3}}',
        lambda text: text.replace('"TEA"', '"PEA"'),
        lambda text: text.replace('"n_tokens"', '"tokens"'),
    ],
)
def test_a_damaged_entry_is_asked_again(tmp_path, damage):
    with Stub(lambda _: "TEA") as stub:
        ask(judge_of(stub, tmp_path))
        (file,) = tmp_path.rglob("*.json")
        whole = file.read_text()
        file.write_text(damage(whole))
        assert file.read_text() != whole
        assert ask(judge_of(stub, tmp_path)).text == "TEA"
        assert len(stub.seen) == 2
        assert file.read_text() == whole


def test_an_answer_is_kept_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("disk full")

    with Stub(lambda _: "tea") as stub:
        monkeypatch.setattr("sae.interpret.judge.os.replace", full)
        with pytest.raises(OSError, match="disk full"):
            ask(judge_of(stub, tmp_path))
        assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


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


@pytest.mark.parametrize("fault", ["no_usage", "wrong_usage", "negative_usage"])
def test_an_unknown_cost_counts_at_its_bound(tmp_path, fault):
    with Stub(lambda _: "tea", [fault]) as stub:
        judge = judge_of(stub, tmp_path)
        ask(judge, "a")
        assert judge.spent == len("user") + len("a") + 64 + 50


def test_the_budget_counts_what_is_in_flight(tmp_path):
    """Three at once, of which only two fit by their bounds: the third is never sent. It would fit once the two were answered at
    their true cost, so they are answered after its refusal."""
    refused = threading.Event()
    with Stub(lambda _: "tea") as stub:
        stub.hold = partial(refused.wait, 60)
        judge = judge_of(stub, tmp_path, token_budget=300, concurrency=3)
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(ask, judge, text) for text in "abc"]
            first = next(as_completed(asked))
            refused.set()
        assert isinstance(first.exception(), BudgetError)
        assert [future.result().text for future in asked if future is not first] == ["tea", "tea"]
        assert (len(stub.seen), judge.spent) == (2, 50)


def test_no_more_at_once_than_allowed(tmp_path):
    with Stub(lambda _: "tea") as stub:
        stub.hold = partial(threading.Barrier(3).wait, 60)  # passes where three are in flight together
        judge = judge_of(stub, tmp_path, concurrency=3)
        with ThreadPoolExecutor(9) as pool:
            list(pool.map(lambda i: ask(judge, str(i)), range(9)))
        assert stub.most_in_flight == 3


def test_the_key_goes_nowhere_but_into_the_header(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SAE_JUDGE_KEY", KEY)
    with Stub(lambda _: "tea", [401, None, "redirect", "redirect nowhere", "echo"]) as stub:
        judge = judge_of(stub, tmp_path)
        with pytest.raises(UnavailableError, match=r"status 401.*\(key\)") as caught:
            ask(judge)
        ask(judge)
        for _ in range(2):
            with pytest.raises(UnavailableError, match="status 302"):
                ask(judge, "another")
        assert stub.authorizations == [f"Bearer {KEY}"] * 4  # a redirect is not followed
        assert ask(judge, "a third").text == "Bearer (key)"
        stub.faults.append(403)
        stub.padding = 455  # the key would lie across the end of what is shown
        with pytest.raises(UnavailableError, match="status 403") as cut:
            ask(judge, "a fourth")
    kept = "".join(file.read_text() for file in tmp_path.rglob("*.json"))
    assert kept
    for said in (str(caught.value), str(cut.value), kept, repr(judge.config), *capsys.readouterr()):
        assert KEY[:6] not in said
    with pytest.raises(ConfigError, match="in the clear"):
        request(JudgeConfig(base_url="http://judge.invalid/v1", model="x"), {}, 0.0)


@pytest.mark.parametrize("key", ["e", "tea", "EMPTY"])
def test_what_is_given_in_place_of_a_key_spoils_no_answer(tmp_path, monkeypatch, key):
    monkeypatch.setenv("SAE_JUDGE_KEY", key)
    with Stub(lambda _: "tea of EMPTY cups") as stub:
        assert ask(judge_of(stub, tmp_path)).text == "tea of EMPTY cups"


def test_a_key_that_is_none_is_not_shown(tmp_path, monkeypatch):
    with Stub(lambda _: "tea") as stub:
        monkeypatch.setenv("SAE_JUDGE_KEY", f" {KEY}\n")  # as a file's contents
        assert ask(judge_of(stub, tmp_path)).text == "tea"
        assert stub.authorizations == [f"Bearer {KEY}"]
        for key in (f"{KEY}\nHost: x", f"{KEY} more", f"{KEY}é"):
            monkeypatch.setenv("SAE_JUDGE_KEY", key)
            with pytest.raises(ConfigError, match="SAE_JUDGE_KEY has characters") as caught:
                ask(judge_of(stub, tmp_path), "another")
            assert KEY not in str(caught.value)
    with pytest.raises(ConfigError, match="never the key") as caught:
        JudgeConfig(api_key_env=KEY)
    assert KEY not in str(caught.value)


def test_what_cannot_be_is_refused():
    assert JudgeConfig().base_url == ""
    with pytest.raises(ConfigError, match="'model' is not"):
        JudgeConfig(base_url="http://x/v1")
    with pytest.raises(ConfigError, match="'body' sets max_tokens, stream"):
        JudgeConfig(body={"stream": True, "max_tokens": None})
    wrong = ("http://[::1/v1", "http://x:99999/v1", "http://x:port/v1", "http://a..b/v1", "http://x/v1 y", "http://x/v1#y")
    for url in ("127.0.0.1:8000", "ftp://x/v1", "https://me:pw@x/v1", *wrong):
        with pytest.raises(ConfigError, match="base_url"):
            JudgeConfig(base_url=url, model="x")
    with pytest.raises(ConfigError, match="'token_budget' = 0"):
        JudgeConfig(base_url="http://x/v1", model="x", token_budget=0)
