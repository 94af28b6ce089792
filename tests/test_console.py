import pytest
import torch

from attunement.console import print_measurement, show_progress
from attunement.core import Estimate
from attunement.distributions.tabular import Tabular
from attunement.measuring import measure
from attunement.scorers import parse_scorer
from attunement.targets import Target
from attunement.training import UpdateInfo
from attunement.tuning import Evaluation, StepInfo


@pytest.fixture
def measured():
    base = Tabular.random(4, 3, generator=torch.Generator().manual_seed(0))
    target = Target(base).constrain(parse_scorer("contains:a"))
    return measure(target, base, n=256, generator=torch.Generator().manual_seed(1))


def test_every_figure_and_warning_is_printed(measured, capsys):
    print_measurement(measured, before=measured)
    printed = capsys.readouterr().out
    for name in (*measured.policy, *measured.divergences, "log_z", "length"):
        assert name in printed
    assert "before" in printed
    assert "after" in printed
    assert "reverse_kl is infinite" in printed
    assert "log factor, nats" in printed
    assert "forbids" in printed


def test_without_a_before_there_is_one_column(measured, capsys):
    print_measurement(measured)
    printed = capsys.readouterr().out
    assert "now" in printed
    assert "before" not in printed


def test_progress_goes_to_standard_error(capsys):
    estimate = Estimate(0.5, 0.1, 0.3, 0.7, 10, 10.0)
    update = UpdateInfo(loss=0.0, gradient_norm=1.0, clipped=False, learning_rate=0.1)
    with show_progress(2) as callbacks:
        callbacks.on_stage("loading the base")
        callbacks.on_step(StepInfo(1, 8, 0, 20, 0.5, 0.5, 0.1, 0, 0, update, 0.1))
        callbacks.on_evaluation(Evaluation(1, {"forward_kl": estimate}))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "loading the base" in captured.err
    assert "forward_kl 0.500 [0.300, 0.700]" in captured.err
