"""`sae interpret ...`: how well a rule, or a judge, tells what features do. Heavy imports stand inside, as in `cli`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sae.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from sae.interpret.endpoint import JudgeConfig
    from sae.interpret.evidence import Evidence
    from sae.interpret.judge import Judge
    from sae.library import Place


def interpret(
    name: Annotated[str, typer.Argument(help="A dictionary (A/1) or one of its features (A/1/3450).")],
    tokens: Annotated[
        int, typer.Option(min=2, help="Held-out tokens: half of the documents are fitted on, half scored.")
    ] = 262_144,
    units: Annotated[int, typer.Option(min=0, help="Features, and neurons, drawn by chance; 0: all.")] = 256,
    judge: Annotated[bool, typer.Option("--judge", help="Ask a language model too: section judge of params.yaml.")] = False,
    base_url: Annotated[str | None, typer.Option(help="Of an OpenAI-compatible server, with /v1.")] = None,
    model: Annotated[str | None, typer.Option(help="As that server names it.")] = None,
    params: Annotated[Path, typer.Option(help="Where section judge stands.")] = Path("params.yaml"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    root: Annotated[Path, typer.Option(help="The folder that holds the runs.")] = Path("data"),
) -> None:
    """How well a rule of n-grams, fitted on some documents, tells on others what a feature does; with --judge, a language model.

    The judge's key is read from the environment variable SAE_JUDGE_KEY (judge.api_key_env) and kept nowhere.
    """
    from sae.interpret.config import InterpretConfig
    from sae.interpret.judge import Judge

    config = InterpretConfig(n_tokens=tokens, n_units=units)
    if not judge and (base_url or model):
        raise ConfigError("--base-url and --model are for --judge; give it too, or neither")
    asked = judge_config(params, base_url, model) if judge else None
    asking = Judge(asked, asked.cache) if asked else None
    place, feature = _named(name, root)
    if not place.tokens.is_dir() or not place.transformer.is_dir():
        raise StoreError(
            f"{place.dictionary} lies alone: its transformer is looked for in {place.transformer}, its tokens in {place.tokens}"
        )
    if feature is None:
        _dictionary(name, place, config, asking, device)
    else:
        _feature(name, feature, place, config, asking, device)


def _named(name: str, root: Path) -> "tuple[Place, int | None]":
    """A dictionary, or one of its features: `A/1` is the former, though its last part is a number too."""
    from sae.library import locate

    try:
        return locate(name, root), None
    except StoreError:
        whole, _, index = name.rstrip("/").rpartition("/")
        if whole and index.isdecimal():
            return locate(whole, root), int(index)
        raise


def judge_config(params: Path, base_url: str | None, model: str | None) -> "JudgeConfig":
    """Section `judge` of the params, where they are there, with what the command line says otherwise."""
    from sae.config import build, read_params
    from sae.interpret.endpoint import JudgeConfig
    from sae.paths import given

    params = given(params)
    section: dict[str, Any] = (read_params(params).get("judge") or {}) if params.is_file() else {}
    named = {name: value for name, value in (("base_url", base_url), ("model", model)) if value}
    config = build(JudgeConfig, {**section, **named}, "judge")
    if not config.base_url:
        raise ConfigError("--judge needs a server: give --base-url and --model, or judge.base_url and judge.model in params.yaml")
    return config


def _open(place: "Place", device: str) -> tuple[Any, Any, Any]:
    from sae.device import to_device
    from sae.dictionary.disk import read_dictionary
    from sae.source.transformer import load_source
    from sae.storage.tokens import TokenStore

    where = to_device(device)
    return load_source(place.transformer, where), read_dictionary(place.dictionary).to(where), TokenStore.open(place.tokens)


def _dictionary(name: str, place: "Place", config: Any, judge: "Judge | None", device: str) -> None:
    """Of a whole dictionary, and the neurons."""
    from sae.interpret.judged import judge_units
    from sae.interpret.judged_report import judge_told, judged_report, units_to_judge
    from sae.interpret.report import find, report, told

    source, dictionary, tokens = _open(place, device)
    findings = find(source, dictionary, tokens, config)
    populations = {name if key == "features" else key: found for key, found in findings.populations.items()}
    typer.echo(told({**findings.facts(), "populations": report(populations, config)}))
    if judge is not None:
        sessions = {}
        for key, (label, found) in zip(findings.populations, populations.items(), strict=True):
            chosen = units_to_judge(findings.text.evidence, key, found, config, judge.config)
            sessions[label] = judge_units(judge, findings.text.evidence, tokens.vocabulary, key, chosen)
        typer.echo(judge_told(judged_report(sessions, populations, config)))


def _feature(name: str, feature: int, place: "Place", config: Any, judge: "Judge | None", device: str) -> None:
    """Of one feature."""
    from sae.interpret.evidence import read
    from sae.interpret.survey import prepare
    from sae.interpret.unit import in_words, unit_told

    source, dictionary, tokens = _open(place, device)
    if feature >= dictionary.n_features:
        raise ConfigError(f"{name}: that dictionary has {dictionary.n_features:,} features, counted from 0")
    evidence = read(source, dictionary, tokens, config.n_tokens, memory_mb=config.memory_mb, seed=config.seed)
    typer.echo(in_words(unit_told(prepare(evidence, config, source.n_vocab), "features", feature), name, tokens.vocabulary))
    if judge is not None:
        _judge_feature(judge, evidence, tokens.vocabulary, feature)


def _judge_feature(judge: "Judge", evidence: "Evidence", vocabulary: list[bytes], feature: int) -> None:
    """The feature, and for the baseline one of those that fire, drawn by chance."""
    import numpy as np

    from sae.chance import generator
    from sae.interpret.judged import SILENCE, JudgeScores, judge_units
    from sae.shown import printable

    fire = np.flatnonzero(evidence.firings["features"].n_active >= 20)
    other = generator(judge.config.seed, "another to judge", feature).permutation(fire[fire != feature])[:1].tolist()
    session = judge_units(judge, evidence, vocabulary, "features", [feature, *other])
    if session.stopped or not session.judged:
        raise ConfigError(session.stopped or "the judge said nothing")
    row = session.judged[0]
    said = "no explanation" if row.explanation is None else printable(row.explanation.encode("utf-8", errors="replace"))
    typer.echo(f"judge {session.model}: {said}")
    for score in JudgeScores._fields:
        beside = "" if row.other is None else f", by another’s explanation {getattr(row.other, score):.3f}"
        typer.echo(
            f"  {score:<18} {getattr(row.own, score):.3f}  (answers shuffled {getattr(row.shuffled, score):.3f}{beside}, "
            f"by chance {getattr(SILENCE, score):g})"
        )
    unread = f"{row.unread_simulations} simulations, {row.unread_detections} detections"
    typer.echo(f"  {row.n_passages} passages, not readable: {unread}; {session.tokens_spent:,} tokens")
