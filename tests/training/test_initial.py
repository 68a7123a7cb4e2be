"""Where a dictionary starts: the geometric median, against what defines it."""

import torch

from sae.training.initial import geometric_median


def test_geometric_median_of_a_heavy_cluster_is_that_cluster():
    """More than half the points in one place: the geometric median is that place, wherever the others are."""
    points = torch.cat([torch.ones(6, 3), torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) * 100])
    torch.testing.assert_close(geometric_median(points), torch.ones(3), atol=1e-3, rtol=0)


def test_geometric_median_has_no_net_pull():
    """At the minimum of Σ‖x − m‖ the unit vectors to all points sum to nothing. The mean and the median of
    each coordinate fail this."""
    points = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)).exp().double()
    median = geometric_median(points, tolerance=1e-12, iterations=1000)

    def pull(m):
        return float(torch.nn.functional.normalize(points - m, dim=1).mean(0).norm())

    assert pull(median) < 1e-6
    assert pull(points.mean(0)) > 1e-2
    assert pull(points.median(0).values) > 1e-3


def test_geometric_median_of_one_point_repeated_is_that_point():
    assert torch.equal(geometric_median(torch.full((5, 3), 0.25)), torch.full((3,), 0.25))
