"""The axes of every tensor, named once, and the type aliases made from them.

=========  ==========================================================================================
context    one sequence of tokens that the transformer sees at once
position   a token's place in its context; position 0 is BOS where the tokens were made with one
row        one activation vector, of one (context, position)
d_mlp      the MLP's hidden width: the neurons
feature    one direction of a dictionary
vocab      the tokenizer's ids
=========  ==========================================================================================

The aliases are checked under pytest only (`--jaxtyping-packages=sae,beartype.beartype`); at run time they cost nothing.
"""

from jaxtyping import Bool, Float, Int, Integer
from numpy import ndarray
from torch import Tensor

Tokens = Int[Tensor, "context position"]
"""Token ids, int64."""
Activations = Float[Tensor, "context position d_mlp"]
"""The MLP's hidden activations, after the nonlinearity."""
Positions = Int[Tensor, "context taken"]
"""Of each context those that are taken, int64, in any order."""
TakenActivations = Float[Tensor, "context taken d_mlp"]
Logits = Float[Tensor, "context position vocab"]
TokenLosses = Float[Tensor, "context predicted"]
"""Nats, one for each predicted token: entry [c, t] is -log p(token t+1 | tokens 0..t), so `predicted = position - 1`."""
Rows = Float[Tensor, "row d_mlp"]
FeatureActivations = Float[Tensor, "*row feature"]
Directions = Float[Tensor, "feature d_mlp"]
PerFeature = Float[Tensor, " feature"]
PerNeuron = Float[Tensor, " d_mlp"]
LogitWeights = Float[Tensor, "feature vocab"]

TokenArray = Integer[ndarray, "context position"]
"""Token ids as they lie on disk (uint16 or uint32)."""
DocumentArray = Integer[ndarray, "context position"]
KindArray = Integer[ndarray, "context position"]
Counts = Bool[ndarray, "_ _"]
"""Of positions [context, position] or of predictions [context, position - 1]."""
RowOrigins = Integer[ndarray, "row 2"]
"""(context, position) of each row."""
