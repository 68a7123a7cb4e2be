"""Stage `automata`: which feature announces which -> reports/automata: automata.json, a table and pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.automata_plots import draw_control, draw_motifs
from pipelines.common import Stage, run_stage
from pipelines.plots import write_csv
from sae import artefact
from sae.automata.edges import Automata, AutomataConfig, find_automata
from sae.automata.report import edge_strength, motifs_of, report, top_tokens
from sae.automata.snake_case import watched
from sae.dictionary.disk import read_dictionary
from sae.reports import write_figures
from sae.source.transformer import load_source
from sae.storage.tokens import TokenStore

NULLS = ("shuffled_order", "shuffled_tokens", "both_shuffled")


def main(stage: Stage) -> None:
    config = stage.section("automata", AutomataConfig)
    store = TokenStore.open(stage.tokens)
    stage.device = torch.device("cpu")  # its loops are compiled for processors
    source = load_source(stage.transformer, stage.device)
    dictionary = read_dictionary(stage.dictionary).to(stage.device)
    parents = (stage.tokens, stage.transformer, stage.dictionary)
    with artefact.writing(
        stage.reports / "automata", stage.run("automata", config, id=stage.dictionary_id, parents=parents)
    ) as draft:
        found = find_automata(
            source, dictionary, store, config, id=stage.dictionary_id, watched=watched(store.vocabulary, source.n_vocab)
        )
        listed = motifs_of(found, config)
        words = report(found, listed, store.vocabulary, config)
        write_edges(draft.path / "edges.csv", found, store)
        draw_control(draft.path / "control.png", found)
        draw_motifs(draft.path / "motifs.png", found, listed, store.vocabulary)
        write_figures(draft.path, "automata", words)
        draft.tell(told(words))


def write_edges(path: Path, found: Automata, store: TokenStore) -> None:
    """Every edge, the strongest first."""
    order = np.argsort(-edge_strength(found), kind="stable")
    edges = found.edges.take(order)
    columns = {name: part if part.dtype.kind == "i" else part.round(6) for name, part in edges._asdict().items()}
    for name in ("first", "second"):
        tokens = top_tokens(columns[name], found.means, found.token_count, store.vocabulary)
        columns[f"{name}_tokens"] = np.array([" ".join(some) for some in tokens], object)
    write_csv(path, tuple(columns), tuple(columns.values()))


def told(words: dict[str, Any]) -> str:
    """Counts, and the strongest of each motif."""
    shuffled = ", ".join(f"{words[f'n_edges_{key}']:,} with {key.replace('_', ' ')}" for key in NULLS)
    lines = [
        f"{words['id']}: {words['n_edges']:,} edges among {words['n_features']:,} features over {words['n_steps']:,} steps "
        f"(effects: {words['effects']}); {shuffled}"
    ]
    for name, n in words["n_motifs"].items():
        some = words["motifs"][name]
        best = (
            " -> ".join(f"{f} [{' '.join(tokens)}]" for f, tokens in zip(some[0]["features"], some[0]["tokens"], strict=True))
            if some
            else "none"
        )
        lines.append(f"  {name.replace('_', ' '):<14}{n:>7,} (rewired {words['n_motifs_rewired'].get(name, 0):,.1f})  {best}")
    snake = words["snake_case"]
    verdict = f"found, {snake['n_pairs']} pairs" if snake["found"] else "not found"
    best = snake["best"]
    pair = f"; best {best['capitals']['feature']} <-> {best['underscore']['feature']}" if best else ""
    lines.append(f"  capitals <-> underscore: {verdict} (by both nulls {snake['n_pairs_shuffled']}){pair}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_stage("automata", main)
