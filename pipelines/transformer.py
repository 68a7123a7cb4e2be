"""Stage `transformer`: train one, or take one from a folder or the hub, and say how it fares against unigram and bigram."""

import dataclasses
import time

from pipelines.common import Stage, run_stage
from sae import artefact
from sae.source.fast_forward import resolve
from sae.source.heldout import measure, spread
from sae.source.pretrained import Found, from_folder, from_hub, shuffled
from sae.source.train_transformer import train_transformer
from sae.source.transformer import TransformerSource, build_native, check_fit, fast_forward, site_of, write_source
from sae.source.transformer_config import TransformerConfig, fields_to_train
from sae.storage.tokens import Sequences, TokenStore


def main(stage: Stage) -> None:
    config = stage.section("transformer", TransformerConfig)
    store = TokenStore.open(stage.tokens)
    train = store.split("train").sequences()
    run = stage.run("transformer", config, id=stage.transformer_id, parents=(stage.tokens,))
    with artefact.writing(stage.transformer, run) as draft:
        found, facts = obtain(stage, config, train, store.n_vocab)
        if config.shuffle_weights:
            found = shuffled(found, config.seed)
        source = TransformerSource(found.bridge, site_of(config), stage.device)
        check_fit(source, store.n_vocab, store.context_length)
        heldout = measure(source, train, spread(store.split("heldout"), config.heldout_tokens))
        write_source(draft.path, source, found.hub)
        facts |= {"origin": found.origin, "d_mlp": source.d_mlp, "n_layers": source.n_layers, **dataclasses.asdict(heldout)}
        draft.run = dataclasses.replace(draft.run, facts=facts)
    print(f"{stage.transformer_id}: {found.origin}, at {source.site.hook}, {source.d_mlp} wide -> {stage.transformer}")
    print(heldout.report())


def obtain(stage: Stage, config: TransformerConfig, train: Sequences, n_vocab: int) -> tuple[Found, dict[str, object]]:
    """The transformer, and the facts of how it came about."""
    if config.source == "folder":
        return from_folder(config.path), {}
    if config.source == "pretrained":
        return from_hub(config.name, config.revision), {}
    bridge = build_native(fields_to_train(config, n_vocab, train.tokens.shape[1]), config.seed).to(
        stage.device, print_details=False
    )
    start = time.monotonic()
    dtype = resolve(config.precision, stage.device)
    fast = fast_forward(bridge, dtype)
    trained = train_transformer(list(fast.weights.values()), fast.summed_loss, train, config, stage.device)
    seconds = time.monotonic() - start
    speed = f"{trained.n_tokens / seconds:,.0f} tokens a second"
    print(f"trained on {trained.n_tokens:,} tokens ({trained.epochs:.2f} epochs) in {seconds:.0f} s, {speed}")
    return Found(bridge, None, "trained here"), {
        "n_train_tokens": trained.n_tokens,
        "epochs": trained.epochs,
        "train_loss": trained.last_loss,
        "precision": str(dtype).removeprefix("torch."),
    }


if __name__ == "__main__":
    run_stage("transformer", main)
