"""That the tests do check the shapes that the package names: conftest.py chooses what is checked."""

import jaxtyping
import pytest
import torch

from sae.metrics.similarity import encoder_decoder_cosine


def test_a_wrong_shape_is_refused():
    assert encoder_decoder_cosine(torch.eye(3, 5), torch.eye(3, 5)).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(jaxtyping.TypeCheckError, match="W_dec"):
        encoder_decoder_cosine(torch.eye(3, 5), torch.eye(3, 4))
