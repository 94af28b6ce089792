import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from attunement.core import Context, Samples
from attunement.distributions.tabular import Tabular
from attunement.divergences import DIVERGENCES, jensen_shannon
from attunement.objectives import Baseline, Objective
from attunement.targets import Target
from attunement.tuning import Proposal, TuningSettings, drawing, evaluate, init, step
from attunement.tuning.stepping import micro_batches

SMALL = TuningSettings(batch_size=64, bank_size=256, learning_rate=0.05, averaging=0.0)
ALONE = [proposal for proposal in Proposal if proposal is not Proposal.OTHER]
FINITE = [name for name, row in DIVERGENCES.items() if row.allows_forbidden]


def has_a(texts: list[str]) -> list[bool]:
    return ["a" in text for text in texts]


def length(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


def never_in_q(contexts: list[Context], texts: list[str]) -> list[bool]:
    pairs = zip(contexts, texts, strict=True)
    return ["a" in text and context.prompt != "q" for context, text in pairs]


def exact_distance(target: Target, policy, row=jensen_shannon) -> float:
    support = target.base.enumerate()
    log_score = target.base.log_prob(support) + target.log_potential(support)
    log_target = log_score - torch.logsumexp(log_score, 0)
    return float(row.exact(policy.log_prob(support), log_target).detach())


@pytest.mark.parametrize("divergence", FINITE)
@pytest.mark.parametrize("proposal", ALONE)
def test_steps_lower_their_own_divergence(hard, divergence, proposal):
    settings = SMALL.model_copy(update={"divergence": divergence, "proposal": proposal})
    problem, state = init(hard, None, settings)
    row = DIVERGENCES[divergence]
    before = exact_distance(hard, state.policy, row)
    for _ in range(30):
        step(problem, state)
    assert exact_distance(hard, state.policy, row) < 0.5 * before


@pytest.mark.parametrize("baseline", list(Baseline))
def test_every_baseline_works(hard, baseline):
    settings = SMALL.model_copy(update={"baseline": baseline})
    problem, state = init(hard, None, settings)
    before = exact_distance(hard, state.policy)
    for _ in range(30):
        step(problem, state)
    assert exact_distance(hard, state.policy) < 0.5 * before


def test_the_split_into_micro_batches_changes_nothing(hard):
    weights = []
    for size in (1, 7, 64):
        problem, state = init(hard, None, SMALL.model_copy(update={"micro_batch_size": size}))
        for _ in range(3):
            step(problem, state)
        weights.append(state.policy.module.logits.detach())
    torch.testing.assert_close(weights[0], weights[2], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(weights[1], weights[2], rtol=1e-9, atol=1e-12)


def test_micro_batches_are_a_partition_by_length(base):
    lengths = base.sample(None, 50, generator=torch.Generator().manual_seed(2)).lengths
    chosen = torch.arange(3, 50, 2)
    parts = list(micro_batches(lengths, chosen, 8))
    rows = torch.cat(parts)
    assert sorted(rows.tolist()) == chosen.tolist()
    assert max(len(part) for part in parts) == 8
    assert bool((lengths[rows].diff() <= 0).all())
    assert not list(micro_batches(lengths, chosen[:0], 8))


@pytest.mark.parametrize("proposal", ALONE)
def test_leaving_out_what_teaches_nothing_changes_nothing(hard, proposal, monkeypatch):
    settings = SMALL.model_copy(
        update={"divergence": "forward_kl", "baseline": Baseline.NONE, "proposal": proposal}
    )
    weights = []
    for everything in (False, True):
        if everything:
            monkeypatch.setattr(drawing, "has_signal", lambda *_: torch.ones(64, dtype=torch.bool))
        problem, state = init(hard, None, settings)
        infos = [step(problem, state) for _ in range(3)]
        assert 0 < infos[0].satisfied < 1
        weights.append(state.policy.module.logits.detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("proposal", list(Proposal))
def test_a_step_up_the_plain_reward_asks_the_base_for_no_more_than_its_half_of_a_mixture(
    base, counted, proposal
):
    settings = SMALL.model_copy(
        update={
            "objective": Objective.REWARD,
            "baseline": Baseline.LEAVE_ONE_OUT,
            "proposal": proposal,
            "replay": 1,
        }
    )
    other = base.copy() if proposal is Proposal.OTHER else None
    scored = {}
    for objective in (Objective.REWARD, Objective.POLICY_GRADIENT):
        asked = counted(base)
        problem, state = init(
            Target(asked).constrain(has_a),
            None,
            settings.model_copy(update={"objective": objective}),
            proposal=other,
        )
        assert asked.scored == 0
        for _ in range(3):
            step(problem, state)
        scored[objective] = asked.scored
        evaluate(problem, state)
        assert asked.scored == scored[objective] + settings.evaluation_size
    if proposal is Proposal.MIXTURE:
        assert 0 < scored[Objective.REWARD] < 3 * 64
        assert scored[Objective.POLICY_GRADIENT] == scored[Objective.REWARD]
    else:
        assert scored[Objective.REWARD] == 0
        by_another = proposal is not Proposal.BASE
        assert scored[Objective.POLICY_GRADIENT] == 3 * 64 * by_another


@pytest.mark.parametrize("proposal", ALONE)
def test_the_plain_reward_needs_no_log_p(conditional, proposal, monkeypatch):
    settings = TuningSettings(
        objective=Objective.REWARD,
        proposal=proposal,
        batch_size=32,
        samples_per_context=16,
        bank_size=96,
        replay=1,
        learning_rate=0.05,
    )
    runs = []
    for reads_target in (False, True):
        monkeypatch.setattr(TuningSettings, "reads_target", reads_target)
        problem, state = init(conditional, ["p", "q", "r"], settings)
        infos = [replace(step(problem, state), seconds=0.0) for _ in range(4)]
        runs.append((infos, state.policy.module.logits.detach()))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])


def test_no_context_is_empty_to_the_plain_reward(conditional):
    """An empty context has no Z, which the reward doesn't read: its tilt still teaches there."""
    target = Target(conditional.base).constrain(never_in_q).tilt(length, beta=0.5)
    settings = TuningSettings(
        objective="reward", batch_size=48, samples_per_context=16, bank_size=96, learning_rate=0.05
    )
    problem, state = init(target, ["p", "q", "r"], settings)
    before = state.policy.module.logits.detach().clone()
    info = step(problem, state)
    assert (info.empty_contexts, info.in_batch_partition) == (0, 0)
    moved = (state.policy.module.logits - before).abs().amax((1, 2))
    assert bool((moved > 0).all())


def test_a_step_in_which_nothing_is_allowed_moves_nothing(base):
    def rare(texts: list[str]) -> list[bool]:
        return [text == rarest for text in texts]

    support = base.enumerate()
    rarest = support.texts[int(base.log_prob(support).argmin())]
    problem, state = init(
        Target(base).constrain(rare),
        None,
        SMALL.model_copy(
            update={
                "divergence": "forward_kl",
                "baseline": Baseline.NONE,
                "proposal": Proposal.BASE,
                "bank_size": 20_000,
                "batch_size": 1,
            }
        ),
    )
    before = state.policy.module.logits.detach().clone()
    info = step(problem, state)
    assert info.satisfied == 0
    assert torch.equal(state.policy.module.logits, before)


def test_a_seed_gives_the_same_run_again(hard):
    runs = []
    for seed in (5, 5, 6):
        problem, state = init(hard, None, SMALL.model_copy(update={"seed": seed}))
        step(problem, state)
        runs.append(state.policy.module.logits.detach())
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_contexts_share_a_step(conditional):
    settings = SMALL.model_copy(update={"batch_size": 32, "samples_per_context": 16})
    problem, state = init(conditional, ["p", "q", "r"], settings)
    info = step(problem, state)
    assert info.samples == 32
    assert info.in_batch_partition == 0
    assert math.isfinite(info.update.gradient_norm)


def test_an_empty_context_adds_nothing_and_is_counted(conditional):
    target = Target(conditional.base).constrain(never_in_q)
    settings = SMALL.model_copy(update={"batch_size": 48, "samples_per_context": 16})
    problem, state = init(target, ["p", "q", "r"], settings)
    before = state.policy.module.logits.detach().clone()
    assert step(problem, state).empty_contexts == 1
    moved = (state.policy.module.logits - before).abs().amax((1, 2))
    assert moved[1] == 0
    assert bool((moved[[0, 2]] > 0).all())


def test_info_tells_what_was_drawn(hard):
    problem, state = init(hard, None, SMALL)
    info = step(problem, state)
    row = info.to_json()
    assert row["step"] == state.step == 1
    assert row["samples"] == 64
    assert 0 < row["satisfied"] < 1
    assert row["gradient_norm"] > 0
    assert isinstance(problem.bank, Samples)


MEMORY = """
import resource
import torch
from tokenizers import Tokenizer, models
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from attunement import Causal, Target, TuningSettings, init, step

VOCABULARY, N, T = 65536, 32, 16
torch.set_num_threads(1)
torch.manual_seed(0)
config = GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=VOCABULARY, n_positions=T)
words = Tokenizer(models.WordLevel({"<end>": 0}, unk_token="<end>"))
base = Causal.load(
    GPT2LMHeadModel(config),
    tokenizer=PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>"),
    max_new_tokens=T,
)

def even(completion_ids, **columns):
    return [float(ids[0] % 2 == 0) for ids in completion_ids]

settings = TuningSettings(batch_size=N, micro_batch_size=N, bank_size=8)
problem, state = init(Target(base).constrain(even), None, settings)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tokens = step(problem, state).tokens
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(1024 * grown / (4 * tokens * VOCABULARY))
"""


def test_a_step_holds_the_logits_of_all_tokens_once():
    # With a fixed threshold glibc gives large blocks back at once: the peak is what was in use.
    done = subprocess.run(
        [sys.executable, "-c", MEMORY],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 1.5


def test_a_step_whose_samples_a_reward_says_nothing_of_goes_on():
    """A reward for one of several tasks gives None for the others, as TRL's do."""
    generator = torch.Generator().manual_seed(1)
    base = Tabular.random(3, 3, generator=generator, prompts=("p", "q"))

    def of_p(prompts, completions):
        pairs = zip(prompts, completions, strict=True)
        return [float("a" in text) if prompt == "p" else None for prompt, text in pairs]

    contexts = (Context("p"), Context("q"))
    target = Target(base).tilt(of_p, beta=0.5)
    settings = SMALL.model_copy(update={"samples_per_context": 64})  # one context a step
    problem, state = init(target, contexts, settings)
    for _ in range(30):
        step(problem, state)
    support = base.enumerate(contexts)
    log_score = support.log_prob + target.log_potential(support)
    of_each = support.context_index.bool(), ~support.context_index.bool()
    moved = [state.policy.log_prob(support)[rows].detach() for rows in of_each]
    before = [support.log_prob[rows] for rows in of_each]
    wanted = [log_score[rows].log_softmax(0) for rows in of_each]
    assert torch.allclose(moved[0], before[0], atol=1e-6)
    assert torch.equal(log_score[of_each[0]], before[0])
    assert (
        jensen_shannon.exact(moved[1], wanted[1]) < jensen_shannon.exact(before[1], wanted[1]) / 4
    )
