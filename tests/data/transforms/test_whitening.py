"""Whitening by principal directions."""

import pytest
import torch

from ppml.data.transforms.whitening import Whitening

VARIANCES = torch.tensor([9.0, 4.0, 1.0, 0.25])


@pytest.fixture(scope="module")
def gaussian():
    """Return samples of a Gaussian with known mean and covariance."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator))[0]
    return 5 + torch.randn(40_000, 4, generator=generator) * VARIANCES.sqrt() @ turn.T


def test_gaussian_of_known_covariance_becomes_white(gaussian):
    white = Whitening.fit(gaussian, 4, 1e-6)(gaussian)
    torch.testing.assert_close(white.mean(dim=0), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(white.T @ white / len(white), torch.eye(4), atol=1e-3, rtol=0)


def test_regularization_is_added_to_variances_and_largest_are_kept(gaussian):
    white = Whitening.fit(gaussian, 2, 3.0)(gaussian)
    torch.testing.assert_close(white.var(dim=0), VARIANCES[:2] / (VARIANCES[:2] + 3), atol=0.02, rtol=0)


def test_fewer_examples_than_features_give_same_directions():
    few = torch.randn(6, 20, generator=torch.Generator().manual_seed(1))
    # The repeated examples are more than the features, with the same mean and covariance.
    many = few.repeat(4, 1)
    one, other = Whitening.fit(few, 5, 0.1), Whitening.fit(many, 5, 0.1)
    torch.testing.assert_close(one(few), other(few), atol=1e-4, rtol=1e-4)
