import copy
import json
import sys

import peft
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from attunement.core import AttunementError, Context, MissingExtraError, Samples, Trainable
from attunement.distributions.adapters import (
    AdapterSettings,
    adapter_base,
    is_base,
    load_adapter,
    merge_adapter,
    with_adapter,
)
from attunement.distributions.causal import Causal
from attunement.distributions.language import LanguageModel
from attunement.distributions.models import load
from attunement.distributions.tiny import TINY_PYTHON
from attunement.laws import check_distribution
from attunement.targets import Target
from attunement.training import trainable
from attunement.tuning import Proposal, TuningSettings, init, step, tune

PROMPTS = ["", "abc", "aabbccddeeffgg"]
# PEFT's own model class asks transformers for something that is to be removed there.
DEPRECATED_IN_PEFT = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"


SMALL = TuningSettings(
    max_steps=15,
    batch_size=128,
    bank_size=512,
    evaluation_size=128,
    learning_rate=0.01,
    warmup_steps=0,
    averaging=0.5,
    evaluate_every=5,
)


def marks(texts):
    return [text.count("!") + text.count("a") for text in texts]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def base(language_model) -> LanguageModel:
    return language_model


@pytest.fixture
def policy(base) -> LanguageModel:
    return with_adapter(base, AdapterSettings(lora_rank=2, lora_alpha=4), generator=generator())


def disturb(policy: LanguageModel, seed=1) -> None:
    """Move an adapter away from where it starts."""
    source = generator(seed)
    for parameter in trainable(policy.module).values():
        parameter.data.add_(torch.randn(parameter.shape, generator=source) * 0.3)


def scored(model: LanguageModel, samples: Samples) -> torch.Tensor:
    with torch.no_grad():
        return model.log_prob(samples)


def tensors(module: nn.Module) -> set[int]:
    return {parameter.data_ptr() for parameter in module.parameters()}


def test_it_is_a_trainable_distribution_and_keeps_its_laws(policy):
    disturb(policy)
    assert isinstance(policy, Trainable)
    check_distribution(policy, [Context(prompt) for prompt in PROMPTS])


def test_it_starts_as_the_base_exactly(base, policy):
    samples = base.sample(PROMPTS, 20, generator=generator())
    again = policy.sample(PROMPTS, 20, generator=generator())
    assert torch.equal(again.tokens, samples.tokens)
    assert torch.equal(again.log_prob, samples.log_prob)
    assert torch.equal(scored(policy, samples), scored(base, samples))
    disturb(policy)
    assert not torch.allclose(scored(policy, samples), scored(base, samples), atol=0.1)


def test_base_policy_and_copies_hold_the_weights_once(base, policy):
    other = policy.copy().copy()
    weights, adapters = tensors(base.module), [trainable(p.module) for p in (policy, other)]
    assert weights < tensors(policy.module)
    assert weights < tensors(other.module)
    own = [{p.data_ptr() for p in adapter.values()} for adapter in adapters]
    assert tensors(policy.module) - weights == own[0]
    assert not own[0] & own[1]
    assert list(adapters[0]) == list(adapters[1])


def test_the_base_stays_as_it_was(base, policy):
    names = [name for name, _ in base.module.named_modules()]
    assert not any("lora" in name for name in names)
    assert all(p.requires_grad for p in base.module.parameters())
    base.log_prob(base.sample(None, 2, generator=generator())).sum().backward()
    assert all(p.grad is not None for p in base.module.parameters())
    assert all(p.grad is None for p in policy.module.parameters())


@pytest.mark.parametrize("divergence", ["forward_kl", "total_variation"])
def test_training_an_adapter_never_moves_its_base(base, policy, divergence):
    samples = base.sample(None, 32, generator=generator())
    weights = [p.detach().clone() for p in base.module.parameters()]
    before = scored(base, samples)
    options = SMALL.model_copy(update={"divergence": divergence, "max_steps": 3})
    problem, state = init(Target(base).tilt(marks, beta=1), None, options, policy=policy)
    for _ in range(3):
        step(problem, state)
    assert torch.equal(scored(base, samples), before)
    for parameter, weight in zip(base.module.parameters(), weights, strict=True):
        assert torch.equal(parameter, weight)
    assert not torch.equal(scored(policy, samples), before)


def test_copies_are_independent(base, policy):
    disturb(policy)
    samples = base.sample(PROMPTS, 8, generator=generator())
    before, other = scored(policy, samples), policy.copy()
    assert torch.equal(scored(other, samples), before)
    disturb(other, seed=2)
    moved = scored(other, samples)
    assert torch.equal(scored(policy, samples), before)
    disturb(policy, seed=3)
    assert torch.equal(scored(other, samples), moved)


def test_gradients_of_several_policies_can_be_walked_in_any_order(base, policy):
    other = policy.copy()
    disturb(other)
    samples = base.sample(None, 8, generator=generator())
    expected = []
    for one in (policy, other):
        one.log_prob(samples).sum().backward()
        expected.append([p.grad.clone() for p in trainable(one.module).values()])
        one.module.zero_grad()
    first, second = policy.log_prob(samples).sum(), other.log_prob(samples).sum()
    scored(base, samples)
    second.backward()
    first.backward()
    for one, gradients in zip((policy, other), expected, strict=True):
        found = [p.grad for p in trainable(one.module).values()]
        torch.testing.assert_close(found, gradients, rtol=0, atol=0)


def test_the_start_is_a_function_of_the_generator(base):
    global_state = torch.get_rng_state()

    def start(seed):
        adapter = trainable(with_adapter(base, generator=generator(seed)).module)
        return torch.cat([p.detach().flatten() for p in adapter.values()])

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))
    assert torch.equal(torch.get_rng_state(), global_state)


def test_only_the_modules_asked_for_get_an_adapter(base):
    linear = {
        name
        for name, part in base.module.named_modules()
        if type(part).__name__ in ("Linear", "Conv1D") and name != "lm_head"
    }

    def adapted(*targets):
        form = AdapterSettings(lora_target_modules=targets)
        names = trainable(with_adapter(base, form, generator=generator()).module)
        return {name.partition(".lora_")[0] for name in names}

    assert adapted() == linear
    one = sorted(linear)[0]
    assert adapted(one) == {one}
    ending = one.rpartition(".")[2]
    assert adapted(ending) == {name for name in linear if name.endswith(f".{ending}")}


def test_a_module_that_is_not_there_lists_those_that_are(base):
    present = {name.rpartition(".")[2] for name, _ in base.module.named_modules()}
    for wrong in ("nothing_like_it", "lm_head", "proj"):
        form = AdapterSettings(lora_target_modules=(wrong,))
        with pytest.raises(AttunementError, match=f"no linear layer '{wrong}'.*there is") as error:
            with_adapter(base, form, generator=generator())
        listed = str(error.value).rpartition("there is ")[2].split(", ")
        assert set(listed) < present


@pytest.mark.parametrize(
    "wrong", [{"lora_rank": 0}, {"lora_alpha": 0}, {"rank": 8}, {"lora_rank": 1.5}]
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValidationError):
        AdapterSettings.model_validate(wrong)


def test_a_second_adapter_is_refused(policy, tmp_path):
    policy.save(tmp_path)
    for add in (
        lambda: with_adapter(policy, generator=generator()),
        lambda: load_adapter(policy, tmp_path),
    ):
        with pytest.raises(AttunementError, match="has an adapter already"):
            add()


def test_a_missing_extra_is_named(base, policy, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    for use in (
        lambda: with_adapter(base, generator=generator()),
        lambda: load_adapter(base, tmp_path),
        lambda: merge_adapter(policy, base),
    ):
        with pytest.raises(MissingExtraError, match=r"attunement\[peft\]"):
            use()


def test_a_saved_adapter_loads_again_over_the_same_weights(base, policy, tmp_path):
    disturb(policy)
    policy.save(tmp_path)
    assert set(load_file(tmp_path / "adapter_model.safetensors")) == {
        "base_model.model." + name.replace(".default", "") for name in trainable(policy.module)
    }
    loaded = load_adapter(base, tmp_path)
    samples = base.sample(PROMPTS, 8, generator=generator())
    assert torch.equal(scored(loaded, samples), scored(policy, samples))
    assert list(trainable(loaded.module)) == list(trainable(policy.module))
    assert tensors(base.module) < tensors(loaded.module)


@pytest.mark.filterwarnings(DEPRECATED_IN_PEFT)
def test_peft_and_transformers_load_what_was_saved(base, policy, tmp_path):
    base.save(tmp_path / "base")
    base = load(tmp_path / "base", max_new_tokens=12)
    policy = with_adapter(base, generator=generator())
    disturb(policy)
    policy.save(tmp_path / "adapter")
    samples = base.sample(PROMPTS, 8, generator=generator())
    expected = scored(policy, samples)
    if base.module.config.is_encoder_decoder:
        auto, auto_peft = AutoModelForSeq2SeqLM, peft.AutoPeftModelForSeq2SeqLM
    else:
        auto, auto_peft = AutoModelForCausalLM, peft.AutoPeftModelForCausalLM
    untouched = auto.from_pretrained(tmp_path / "base")
    for network in (
        auto_peft.from_pretrained(tmp_path / "adapter").get_base_model(),
        peft.PeftModel.from_pretrained(untouched, tmp_path / "adapter").get_base_model(),
        auto.from_pretrained(tmp_path / "adapter"),
    ):
        loaded = load(network, tokenizer=base.tokenizer, max_new_tokens=12)
        torch.testing.assert_close(scored(loaded, samples), expected, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings(DEPRECATED_IN_PEFT)
def test_what_peft_saved_can_be_trained_on(base, tmp_path):
    made = peft.get_peft_model(
        copy.deepcopy(base.module),
        peft.LoraConfig(
            task_type="SEQ_2_SEQ_LM" if base.module.config.is_encoder_decoder else "CAUSAL_LM",
            r=3,
            target_modules="all-linear",
            init_lora_weights=False,
            fan_in_fan_out=base.module.config.model_type == "gpt2",
        ),
    )
    made.save_pretrained(tmp_path)
    policy = load_adapter(base, tmp_path)
    samples = base.sample(PROMPTS, 8, generator=generator())
    network = made.get_base_model().eval()
    wrapped = load(network, tokenizer=base.tokenizer, max_new_tokens=12)
    assert torch.equal(scored(policy, samples), scored(wrapped, samples))
    assert trainable(policy.module)
    assert not torch.allclose(scored(policy, samples), scored(base, samples), atol=0.01)


def test_a_merged_adapter_is_a_model_of_its_own(base, policy, tmp_path):
    disturb(policy)
    samples = base.sample(PROMPTS, 8, generator=generator())
    before = scored(base, samples)
    merged = merge_adapter(policy, base)
    torch.testing.assert_close(scored(merged, samples), scored(policy, samples), rtol=0, atol=1e-3)
    assert torch.equal(scored(base, samples), before)
    assert not tensors(merged.module) & tensors(base.module)
    merged.save(tmp_path)
    loaded = load(tmp_path, max_new_tokens=12)
    assert torch.equal(scored(loaded, samples), scored(merged, samples))
    with pytest.raises(AttunementError, match="no adapter that could be merged"):
        merge_adapter(merged, base)


def damage(folder, how):
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    content, tensors = json.loads(config.read_text(encoding="utf-8")), load_file(weights)
    match how:
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-9])
        case "missing":
            weights.unlink()
        case "no config":
            config.unlink()
        case "fewer":
            save_file(dict(list(tensors.items())[2:]), weights)
        case "other rank":
            config.write_text(json.dumps(content | {"r": 3}), encoding="utf-8")
        case _:
            config.write_text(json.dumps(content | json.loads(how)), encoding="utf-8")


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("cut", "adapter_model.safetensors can't be read"),
        ("missing", "adapter_model.safetensors can't be read"),
        ("no config", "adapter_config.json can't be read"),
        ("fewer", "of another model than its base"),
        ("other rank", "of another model than its base"),
        ('{"target_modules": ["of_another_family"]}', "doesn't fit the model.*of_another_family"),
        ('{"peft_type": "IA3"}', "isn't an adapter of plain LoRA"),
        ('{"bias": "all"}', "isn't an adapter of plain LoRA"),
        ('{"modules_to_save": ["lm_head"]}', "isn't an adapter of plain LoRA"),
        ('{"init_lora_weights": "pissa"}', "isn't an adapter of plain LoRA"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_named(base, policy, tmp_path, how, sentence):
    policy.save(tmp_path)
    damage(tmp_path, how)
    with pytest.raises(AttunementError, match=sentence):
        load_adapter(base, tmp_path)


def test_an_adapter_names_its_base(base, policy, tmp_path):
    tiny = Causal.load(TINY_PYTHON, max_new_tokens=4)
    adapted = with_adapter(tiny, generator=generator())
    adapted.save(tmp_path / "tiny")
    assert adapter_base(tmp_path / "tiny") == TINY_PYTHON
    assert is_base(tiny, TINY_PYTHON)
    assert not is_base(adapted, TINY_PYTHON)
    assert not is_base(base, TINY_PYTHON)
    elsewhere = tmp_path / "tiny/adapter_config.json"
    content = json.loads(elsewhere.read_text(encoding="utf-8"))
    moved = "/another/machine/attunement/distributions/tiny_python"
    for name, expected in ((moved, TINY_PYTHON), ("org/model", "org/model")):
        elsewhere.write_text(json.dumps(content | {"base_model_name_or_path": name}))
        assert adapter_base(tmp_path / "tiny") == expected
    policy.save(tmp_path / "nameless")
    with pytest.raises(AttunementError, match="names no base"):
        adapter_base(tmp_path / "nameless")
    base.save(tmp_path / "whole")
    assert adapter_base(tmp_path / "whole") is None
    assert adapter_base("org/model") is None
    with pytest.raises(AttunementError, match="holds an adapter, not a model"):
        load(tmp_path / "tiny", max_new_tokens=4)


def test_over_bfloat16_the_adapter_is_float32(model, byte_tokenizer):
    base = Causal.load(model.bfloat16(), tokenizer=byte_tokenizer, max_new_tokens=6)
    policy = with_adapter(base, generator=generator())
    assert {p.dtype for p in trainable(policy.module).values()} == {torch.float32}
    samples = base.sample(None, 8, generator=generator())
    assert torch.equal(scored(policy, samples), scored(base, samples))
    policy.log_prob(samples).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in trainable(policy.module).values())


@pytest.mark.parametrize("proposal", [Proposal.MIXTURE, Proposal.KL_ADAPTIVE])
def test_tuning_moves_the_adapter_towards_the_target(five_token_model, byte_tokenizer, proposal):
    base = Causal.load(five_token_model, tokenizer=byte_tokenizer, max_new_tokens=4)
    policy = with_adapter(base, AdapterSettings(lora_rank=2), generator=generator())
    target = Target(base).tilt(marks, beta=1)
    options = SMALL.model_copy(update={"proposal": proposal})
    tuned = tune(target, settings=options, policy=policy)
    before, after = (tuned.evaluations[index].estimates["forward_kl"] for index in (0, -1))
    assert after.high < before.low
    assert tensors(base.module) < tensors(tuned.policy.module)
    further = tune(target, settings=options, policy=tuned.policy.copy())
    assert further.evaluations[0].estimates["forward_kl"].high < before.low
