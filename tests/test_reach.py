import pytest
import torch

from attunement.core import AttunementError, Context
from attunement.reach import Reach, require_all_seen, require_reachable

FLOAT64 = torch.float64
CONTEXTS = (Context("first"), Context("second"))


def check(wanted, features, allowed=None, context=None):
    features = torch.tensor(features, dtype=FLOAT64).reshape(len(features), -1)
    everything = torch.ones(len(features), dtype=torch.bool)
    require_reachable(
        wanted,
        features,
        everything if allowed is None else torch.tensor(allowed),
        torch.zeros(len(features), dtype=torch.long) if context is None else torch.tensor(context),
        CONTEXTS[:1] if context is None else CONTEXTS,
    )


def test_means_inside_the_hull_pass():
    check([Reach("f", 0.5, False)], [0.0, 1.0])
    check([Reach("f", 0.5, True)], [0.0, 1.0, -1.0, 1.0], context=[0, 0, 1, 1])
    check([Reach("f", 0.4, False), Reach("g", 0.3, True)], [[0, 0], [1, 0], [0, 1]])


@pytest.mark.parametrize(
    ("mean", "features", "allowed", "message"),
    [
        (5.0, [0.0, 3.0], None, "f = 5 can't be reached: it lies between 0 and 3 in 2 samples"),
        (3.0, [0.0, 3.0], None, "f = 3 can't be reached"),
        (1.0, [0.0, 1.0], None, "f = 1 is a constraint, not a proportion: use constrain"),
        (0.5, [1.0, 1.0], None, "always 1 in 2 samples .* never produces anything else"),
        (0.5, [1.0, 0.0], [True, False], "always 1 in 1 samples .* a constraint fixes it"),
    ],
)
@pytest.mark.parametrize("each", [False, True])
def test_what_cannot_be_reached_is_said(mean, features, allowed, message, each):
    with pytest.raises(AttunementError, match=message) as error:
        check([Reach("f", mean, each)], features, allowed)
    assert ("context 0 ('first')" in str(error.value)) == each


def test_an_average_can_be_reached_where_a_context_alone_cannot():
    features, context = [0.0, 1.0, 2.0, 3.0], [0, 0, 1, 1]
    check([Reach("f", 1.5, False)], features, context=context)
    message = r"in context 0 \('first'\) and 1 more of 2 contexts: f = 1.5 can't .* 0 and 1 in 2"
    with pytest.raises(AttunementError, match=message):
        check([Reach("f", 1.5, True)], features, context=context)
    with pytest.raises(AttunementError, match=r"in context 1 \('second'\): f = 0.5 .* 2 and 3"):
        check([Reach("f", 0.5, True)], features, context=context)


def test_means_that_exclude_each_other_are_said():
    opposite = [[0.0, 1.0], [1.0, 0.0]]
    both = [Reach("f", 0.3, False), Reach("g", 0.3, False)]
    with pytest.raises(AttunementError, match=r"f = 0.3, g = 0.3 can't be reached together in 2"):
        check(both, opposite)
    check([Reach("f", 0.3, False), Reach("g", 0.7, False)], opposite)


def test_means_that_exclude_each_other_in_one_context_are_said_with_it():
    features = [[0, 1], [1, 0], [0, 0], [1, 1], [0, 1], [1, 0]]
    context = [0, 0, 1, 1, 1, 1]
    message = r"in context 0 \('first'\): f = 0.3, g = 0.3 can't be reached together"
    with pytest.raises(AttunementError, match=message):
        check([Reach("f", 0.3, True), Reach("g", 0.3, True)], features, context=context)
    check([Reach("f", 0.3, False), Reach("g", 0.3, False)], features, context=context)


def test_a_context_in_which_nothing_is_allowed_is_left_out_of_averages_and_else_named():
    features, context = [0.0, 1.0, 2.0, 3.0], [0, 0, 1, 1]
    allowed = [True, True, False, False]
    check([Reach("f", 0.5, False)], features, allowed, context)
    with pytest.raises(AttunementError, match=r"in context 1 \('second'\): none of 2 samples"):
        check([Reach("f", 0.5, True)], features, allowed, context)
    with pytest.raises(AttunementError, match=r"and 1 more of 2 contexts: none of 1 samples"):
        require_all_seen(torch.zeros(2, dtype=torch.bool), torch.tensor([0, 1]), CONTEXTS)
