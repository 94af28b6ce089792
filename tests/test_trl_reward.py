"""The reward is the log-potential of what TRL drew, and TRL with it goes where tuning goes."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from attunement.core import AttunementError, Context, Stop
from attunement.distributions.causal import Causal
from attunement.distributions.tabular import Tabular
from attunement.intervals import mean_interval
from attunement.objectives import Baseline
from attunement.targets import Target
from attunement.trl_reward import rebuild
from attunement.tuning import Keep, Proposal, TuningSettings, tune

WORDS = ("<end>", "a", "b", "c")
PROMPT = "<end>"
LENGTH = 3


def word_tokenizer(adds_start=False):
    """A token a letter after the end token, which also starts and pads."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<end>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if adds_start:
        inner.post_processor = processors.TemplateProcessing(
            "<end> $0", special_tokens=[(PROMPT, 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<end>",
        eos_token="<end>",
        pad_token="<end>",
        chat_template="{% for m in messages %}{{ m.content }}{% endfor %}",
    )


def letters_model():
    """A GPT-2 of four tokens, without dropout, with some preferences of its own."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=1,
        n_head=2,
        n_embd=16,
        vocab_size=len(WORDS),
        n_positions=16,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return GPT2LMHeadModel(config).eval()


def language(stop=None, adds_start=False, **options):
    return Causal.load(
        letters_model(),
        tokenizer=word_tokenizer(adds_start),
        max_new_tokens=LENGTH,
        stop=stop,
        **options,
    )


def has_b(texts):
    return ["b" in text for text in texts]


def count_a(texts):
    return [text.count("a") for text in texts]


def soft_target(base):
    return Target(base).constrain(has_b).tilt(count_a, beta=2.0)


def drawn_by_trl(base, n=16, prompt=PROMPT):
    """Prompts, texts and ids of n completions, as TRL hands them over."""
    samples = base.sample([prompt], n, generator=torch.Generator().manual_seed(0))
    return samples, [prompt] * n, samples.texts, samples.token_lists


def test_the_reward_is_the_log_potential_with_the_floor():
    base = language()
    samples, prompts, texts, ids = drawn_by_trl(base)
    reward = soft_target(base).as_reward(floor=0.1)
    floored = Target(base).constrain(has_b, 0.1).tilt(count_a, beta=2.0)
    found = reward(prompts, texts, ids, trainer_state=None, log_extra=print, log_metric=print)
    assert found == floored.log_potential(samples).tolist()
    assert all(isinstance(number, float) and math.isfinite(number) for number in found)
    assert reward.target == floored


def test_the_ids_count_and_the_texts_are_not_read():
    base = language()
    _, prompts, texts, ids = drawn_by_trl(base)
    reward = soft_target(base).as_reward(floor=0.1)
    assert reward(prompts, ["bbb"] * len(texts), ids) == reward(prompts, texts, ids)


def test_samples_are_rebuilt_as_they_were_drawn():
    base = language()
    samples, prompts, _, ids = drawn_by_trl(base, 32)
    assert not samples.finished.all()
    again = rebuild(base, prompts, ids, {})
    for name in ("tokens", "mask", "context_index", "finished"):
        assert torch.equal(getattr(again, name), getattr(samples, name)), name
    assert again.context_tokens == samples.context_tokens
    assert again.full_texts == samples.full_texts
    assert again.log_prob.isnan().all()
    torch.testing.assert_close(base.log_prob(again), base.log_prob(samples))


@settings(deadline=None, max_examples=50)
@given(rows=st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=6), min_size=1, max_size=8))
def test_what_goes_beyond_the_outcomes_is_cut_off(rows):
    base = language(Stop(strings=("c",)))
    samples = rebuild(base, [PROMPT] * len(rows), rows, {})
    for ids, kept, finished in zip(rows, samples.token_lists, samples.finished, strict=True):
        ends = [at for at, token in enumerate(ids[:LENGTH]) if WORDS[token] in ("<end>", "c")]
        length = ends[0] + 1 if ends else LENGTH
        assert kept == ids[:length]
        assert bool(finished) == bool(ends)


def test_columns_and_conversations_reach_the_scorers():
    def wanted(prompts, completions, letter):
        roles = [completion[0]["role"] for completion in completions]
        rows = zip(prompts, letter, roles, strict=True)
        return [prompt[-1]["content"] == one and role == "assistant" for prompt, one, role in rows]

    base = language()
    prompts = [[{"role": "user", "content": letter}] for letter in "aab"]
    reward = Target(base).tilt(wanted, beta=0.5).as_reward()
    ids = [[1, 0], [2, 0], [3, 3, 3]]
    assert reward(prompts, [], ids, letter=["a", "b", "b"]) == [2.0, 0.0, 2.0]


def test_a_moment_held_in_every_context_finds_its_context():
    base = language()
    contexts = [Context("<end>a", {"row": 1}), Context("<end>b", {"row": 2})]
    target = Target(base).match_each({count_a: 0.5})
    fitted = target.fit(contexts, n=500, generator=torch.Generator().manual_seed(0))
    reward = fitted.as_reward()
    prompts = ["<end>b", "<end>a", "<end>a"]
    found = reward(prompts, [], [[1, 0], [1, 0], [2, 0]], row=[2, 1, 1])
    first, second = fitted.lambdas_["count_a"].values
    assert found == [second, first, 0.0]
    with pytest.raises(AttunementError, match="no λ for the context '<end>a'"):
        reward(["<end>a"], [], [[1, 0]], row=[3])


def test_a_tokenizer_that_adds_the_start_is_no_hindrance():
    base = language(adds_start=True)
    assert rebuild(base, ["ab"], [[1, 0]], {}).context_tokens == ((0, 1, 2),)
    with pytest.raises(AttunementError, match=r"reads the prompt 'ab' as 2 tokens .* with '<end>'"):
        rebuild(language(), ["ab"], [[1, 0]], {})


def test_a_completion_that_trl_cut_short_is_an_error():
    with pytest.raises(AttunementError, match=r"completion 1 has 2 tokens .* max_complet"):
        rebuild(language(), [PROMPT, PROMPT], [[0], [1, 1]], {})


@pytest.mark.parametrize(
    ("target", "floor", "sentence"),
    [
        (lambda base: Target(base).constrain(has_b), None, "a hard constraint needs a floor"),
        (lambda base: Target(base).tilt(has_b, 1.0), 0.1, r"as_reward\(floor=...\) has no use"),
        (lambda base: Target(base).constrain(has_b), 1.5, "a floor lies between 0 and 1"),
        (lambda base: Target(base).match({has_b: 0.5}), None, "fit the target before"),
    ],
)
def test_what_cannot_be_a_reward_is_said_at_once(target, floor, sentence):
    with pytest.raises(AttunementError, match=sentence):
        target(language()).as_reward(floor)


def test_a_base_that_trl_cannot_have_is_said():
    table = Tabular.random(3, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(AttunementError, match="causal language models: this base is none"):
        Target(table).tilt(has_b, 1.0).as_reward()
    forbidding = language(forbidden=frozenset({3}))
    with pytest.raises(AttunementError, match="never draws its 1 forbidden tokens"):
        Target(forbidding).tilt(has_b, 1.0).as_reward()


STEPS, BATCH, RATE, SEEDS = 120, 256, 1e-2, 4


def all_outcomes(base):
    """Every completion of the prompt."""
    grid = torch.cartesian_prod(*[torch.arange(len(WORDS))] * LENGTH).tolist()
    rows = {tuple(row[: row.index(0) + 1] if 0 in row else row) for row in grid}
    return rebuild(base, [PROMPT] * len(rows), sorted(rows), {})


def exact_kl(module, target):
    """KL(π‖p) on all outcomes."""
    base = target.base
    support = all_outcomes(base)
    policy = Causal(module, base.tokenizer, base.outcomes)
    with torch.no_grad():
        log_policy = policy.log_prob(support)
        log_target = (base.log_prob(support) + target.log_potential(support)).log_softmax(0)
    assert float(log_policy.exp().sum()) == pytest.approx(1, abs=1e-5)
    return float((log_policy.exp() * (log_policy - log_target)).sum())


def trained_by_trl(base, reward, folder, seed):
    """What RLOOTrainer makes of a copy of the base."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL's and its imports' own
        from datasets import Dataset
        from trl.trainer.rloo_config import RLOOConfig
        from trl.trainer.rloo_trainer import RLOOTrainer

        base.save(folder / "model")
        arguments = RLOOConfig(
            output_dir=str(folder / "out"),
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            num_generations=BATCH,
            max_completion_length=LENGTH,
            beta=1.0,
            temperature=1.0,
            top_p=1.0,
            normalize_advantages=False,
            learning_rate=RATE,
            lr_scheduler_type="cosine",
            adam_beta2=0.99,
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
            seed=seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
        )
        trainer = RLOOTrainer(
            model=str(folder / "model"),
            reward_funcs=reward,
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": [PROMPT] * BATCH}),
            processing_class=base.tokenizer,
        )
        trainer.train()
    return trainer.model


def trained_here(target, seed):
    """The same by our own steps: reverse KL, on policy, leave-one-out."""
    tuned = tune(
        target,
        [PROMPT],
        TuningSettings(
            divergence="reverse_kl",
            baseline=Baseline.LEAVE_ONE_OUT,
            proposal=Proposal.POLICY,
            batch_size=BATCH,
            max_steps=STEPS,
            warmup_steps=0,
            learning_rate=RATE,
            averaging=0.0,
            keep=Keep.LAST,
            evaluate_every=STEPS,
            bank_size=64,
            evaluation_size=64,
            seed=seed,
        ),
    )
    return tuned.policy.module


@pytest.mark.slow
def test_trl_with_the_reward_and_tuning_reach_the_same_distribution(tmp_path):
    base = language()
    reward = soft_target(base).as_reward(floor=0.05)
    target = reward.target
    before = exact_kl(base.module, target)
    theirs, ours = [], []
    for seed in range(SEEDS):
        peer = trained_by_trl(base, reward, tmp_path / str(seed), seed)
        theirs.append(exact_kl(peer, target))
        ours.append(exact_kl(trained_here(target, seed), target))
    difference = mean_interval(torch.tensor(theirs) - torch.tensor(ours))
    assert difference.low <= 0 <= difference.high
    assert before > 0.5
    assert max(theirs + ours) < 0.005
