"""Numbers of the gates, by hand and from the literature."""

import pytest
from scipy.stats import norm

from engine.difference import Difference
from engine.gates.statistics import groups_to_settle, holm, holm_adjusted, p_worse_than


def test_how_many_images_would_settle_it():
    """Four times the images halve the error: .02 +- .03 needs 9/4 of them, against a margin of 0."""
    error = 0.03 / norm.ppf(0.975)
    seen = Difference("AP", "", 100, 80, 0.5, 0.52, -0.01, 0.05, error=error, groups=80)
    assert groups_to_settle(seen, 0.0) in (180, 181)
    assert groups_to_settle(seen, -0.02) == 45  # .04 away: 80 * (3 / 4) ** 2
    assert groups_to_settle(seen, 0.02) is None


def test_p_of_being_worse_falls_with_the_loss():
    def p(b, margin=0.05):
        return p_worse_than(Difference("AP", "c", 9, 9, 0.5, b, error=0.02, groups=50), margin)

    assert p(0.45) == pytest.approx(0.5) and p(0.5) > 0.99
    assert p(0.40) == pytest.approx(0.0079, abs=5e-4)  # 2.5 errors, 49 degrees of freedom
    assert p(0.5 - 0.05 * 4) < 1e-9
    assert p_worse_than(Difference("AP", "c", 0, 0, None, None), 0.05) == 1


def test_holm_stops_at_the_first_that_stands():
    """Holm (1979): .01, .04, .03, .005 at .05 reject the smallest two; .05 / 2 stops at .03."""
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert holm([], 0.05) == [] and holm([0.04], 0.05) == [True]


def test_adjusted_p_values_reject_what_holm_rejects():
    p_values = [0.01, 0.04, 0.03, 0.005]
    adjusted = holm_adjusted(p_values)
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [p <= 0.05 for p in adjusted] == holm(p_values, 0.05)
    assert holm_adjusted([]) == [] and holm_adjusted([0.9, 0.9]) == [1.0, 1.0]
