import torch

from attunement.tuning import Keep, TuningSettings, advance, init, tune

SETTINGS = TuningSettings(
    max_steps=24,
    batch_size=64,
    bank_size=512,
    evaluation_size=128,
    evaluate_every=10,
    save_every=8,
    learning_rate=0.1,
)


def test_the_loop_evaluates_and_saves_on_time(hard):
    problem, state = init(hard, None, SETTINGS)
    steps, evaluated, saved = [], [], []
    advance(
        problem,
        state,
        on_step=lambda info: steps.append(info.step),
        on_evaluation=lambda found, _: evaluated.append(found.step),
        on_checkpoint=lambda: saved.append(state.step),
    )
    assert steps == list(range(1, 25))
    assert evaluated == [0, 10, 20, 24]
    assert saved == [8, 16, 24]


def test_best_is_what_was_told(hard):
    problem, state = init(hard, None, SETTINGS)
    told = []
    advance(
        problem,
        state,
        on_step=lambda _: None,
        on_evaluation=lambda found, best: told.append((found.estimates["forward_kl"].value, best)),
        on_checkpoint=lambda: None,
    )
    lowest = float("inf")
    for value, best in told:
        assert best == (value < lowest)
        lowest = min(lowest, value)
    assert state.best == lowest


def test_tune_comes_nearer_and_leaves_the_base(hard, base):
    logits = base.logits.detach().clone()
    tuned = tune(hard, None, SETTINGS)
    first, last = tuned.evaluations[0].estimates, tuned.evaluations[-1].estimates
    assert last["forward_kl"].high < first["forward_kl"].low
    assert last["has_a"].low > first["has_a"].high
    assert torch.equal(base.logits, logits)
    assert not torch.equal(tuned.policy.module.logits, logits)


def test_keep_last_delivers_the_last_average(hard):
    settings = SETTINGS.model_copy(update={"keep": Keep.LAST})
    problem, state = init(hard, None, settings)
    advance(
        problem,
        state,
        on_step=lambda _: None,
        on_evaluation=lambda *_: None,
        on_checkpoint=lambda: None,
    )
    delivered = tune(hard, None, settings).policy
    assert torch.equal(delivered.module.logits, state.average.module.logits)


def test_what_is_kept_goes_by_the_held_out_contexts(conditional):
    """Steps on p alone can't come nearer in q: the weights from before the first step are kept."""
    tuned = tune(conditional, ["p"], SETTINGS, evaluation_contexts=["q"])
    assert len({e.estimates["log_z"].n for e in tuned.evaluations}) == 1
    seen = tune(conditional, ["p"], SETTINGS)
    assert seen.evaluations[-1].estimates["forward_kl"].value < 0.2
    assert tuned.evaluations[-1].estimates["forward_kl"].value > 0.2
