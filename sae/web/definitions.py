"""What each number on the page is, in a sentence or two: shown where it stands, and gathered in the page's footer."""

_TEXTS = {
    "index": ("Feature", "The feature's place in its dictionary. A/1/3450 is feature 3450 of dictionary 1 of transformer A."),
    "n_features": ("Features", "Features on this page."),
    "n_tokens": (
        "Tokens looked at",
        "Positions of held-out text that all counts, densities, histograms and examples here are from. No document of "
        "it was seen in training.",
    ),
    "dead": ("Dead", "Features that are active on none of the tokens looked at; some may fire on text that was not among them."),
    "density": ("Density", "Fraction of the tokens looked at on which the feature is active, that is above zero."),
    "density_histogram": (
        "Density of features",
        "Number of features by density, on a logarithmic axis; dead ones are left out. Coloured: those in the list below.",
    ),
    "features_by_kind": (
        "Features by kind",
        "For each kind of document, how many of the features in the list are active on it most often. Kinds that make up "
        "more of the text have more chances.",
    ),
    "n_active": ("Active tokens", "Number of tokens on which the feature is above zero."),
    "max_activation": ("Maximum", "The feature's highest activation on the tokens looked at."),
    "mean_activation": ("Mean when active", "Mean activation over the tokens on which the feature is active."),
    "top_tokens": ("Top tokens", "The tokens of the strongest examples, the most frequent first."),
    "kind": ("Kind", "The kind of document that most of the feature's active tokens are in, and the share of them that is."),
    "kind_share": ("Kind share", "Of the feature's active tokens, the share in the kind of document that has most of them."),
    "top_logits": (
        "Raises",
        "The tokens whose logits the feature raises most, by path expansion: decoder row · W_out · π · L · W_U, where π "
        "subtracts the mean and L stands in for the final LayerNorm (its gain times the mean of 1/σ). Each feature's "
        "weights are shifted so that their median is 0.",
    ),
    "bottom_logits": ("Lowers", "The tokens whose logits the feature lowers most; see Raises."),
    "top_logit_value": ("Top logit", "The largest logit weight of the feature: logits for each unit of activation."),
    "logit_histogram": (
        "Logit weights",
        "Number of tokens of the vocabulary by the logit weight that the feature gives them; counts on a logarithmic axis.",
    ),
    "histogram": (
        "Activations",
        "Number of tokens by activation, in 50 equal bins from 0 to the maximum; tokens on which it is zero are left out.",
    ),
    "kind_counts": (
        "Active tokens by kind",
        "Of the feature's active tokens, the share in each kind of document; the mark stands at the kind's share of all tokens.",
    ),
    "examples_top": (
        "Strongest",
        "The examples with the highest activation, one a document, lined up at the token that it is measured on. Colour is "
        "activation over the feature's maximum.",
    ),
    "examples_interval": (
        "Interval",
        "Examples drawn at random, one a document, from one of equally wide intervals of activation between 0 and the maximum, "
        "the highest first; they show whether the feature means the same where it is weak.",
    ),
    "neuron_correlated": (
        "Most correlated neurons",
        "Neurons whose activations have the highest Pearson correlation with the feature's, over the tokens looked at.",
    ),
    "feature_correlated": (
        "Most correlated features",
        "Features of this dictionary whose activations have the highest Pearson correlation with this one's, over the tokens "
        "looked at: of all of them, not of a sample.",
    ),
    "other_correlated": (
        "In the other dictionary",
        "Features of the other dictionary whose activations on the same tokens have the highest Pearson correlation with this "
        "one's, of all of them.",
    ),
    "neuron_correlation": ("Neuron correlation", "Pearson correlation with the neuron that has the highest."),
    "neuron_coefficient": (
        "Largest coefficients",
        "Neurons with the largest entries, in size, of the feature's decoder row, which has length 1.",
    ),
    "n_neurons_above_tenth": (
        "Neurons over 0.1",
        "Number of neurons whose entry of the decoder row is 0.1 or more in size: how many carry the feature.",
    ),
    "participation_ratio": (
        "Participation ratio",
        "1 / Σ c⁴ of the decoder row's entries c: how many neurons carry the feature, were they all to carry it alike; about a "
        "third of all for a random direction.",
    ),
    "ablation_loss": (
        "Loss if ablated",
        "By how much the loss rises, in nats a token, where the feature fires, when it is taken out of the activations: mean "
        "over the tokens counted under Ablated tokens.",
    ),
    "n_ablated": (
        "Ablated tokens",
        "Tokens over which Loss if ablated is the mean: those on which the feature fires, but for the last of each context.",
    ),
    "encoder_bias": ("Encoder bias", "The feature's entry of b_enc; strongly negative for features of ultralow density."),
    "encoder_decoder_cosine": (
        "Encoder · decoder",
        "Cosine between the feature's encoder row and decoder row; near 1 for features that read what they write.",
    ),
}


def definitions(ultralow: float | None) -> dict[str, dict[str, str]]:
    """Label and meaning by key; `ultralow` is the density below which a feature is called so, None where that can't be told."""
    if ultralow is None:
        low = "Too few tokens were looked at to tell features of ultralow density, and dead ones, from rare ones."
        alive = "Features that are active on at least one of the tokens looked at."
    else:
        low = f"Features that are active, but on fewer than one token in {1 / ultralow:,.0f}. {_CLUSTER}"
        alive = f"Features that are active on at least one token in {1 / ultralow:,.0f}."
    texts = {**_TEXTS, "alive": ("Alive", alive), "ultralow": ("Ultralow", low)}
    return {key: {"label": label, "meaning": meaning} for key, (label, meaning) in texts.items()}


_CLUSTER = (
    "In Towards Monosemanticity they form a cluster of their own, whose features can seldom be interpreted; it drew the line "
    "at one token in a million."
)
