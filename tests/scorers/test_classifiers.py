from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    pipeline,
)

from attunement import check_scorer
from attunement.core import AttunementError
from attunement.hub import quiet
from attunement.scorers import classifier, evaluate, parse_scorer, sentiment, toxicity

LIMIT = 8
LETTERS = {letter: index for index, letter in enumerate("?#abcdefgh")}


def tokenizer_of(**options) -> PreTrainedTokenizerFast:
    """A token for each of a few letters."""
    made = Tokenizer(models.WordLevel(LETTERS, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # pyright: ignore
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?", **options)


def save_classifier(folder, labels, problem_type=None, **options) -> str:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(LETTERS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=LIMIT,
        pad_token_id=1,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        problem_type=problem_type,
        initializer_range=0.3,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    options = {"pad_token": "#", "model_max_length": LIMIT} | options
    tokenizer_of(**options).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_classifier(tmp_path_factory.mktemp("classifier"), ["bad", "so-so", "good"])


def values(scorer, samples) -> list[float]:
    return evaluate(scorer, samples).values.tolist()


TEXTS = ["abc", "h", "aabbccdd", "d e f", "gggg"]


@pytest.mark.parametrize(
    ("labels", "problem_type"),
    [
        (["bad", "so-so", "good"], None),
        (["bad", "good"], "single_label_classification"),
        (["toxic", "insult"], "multi_label_classification"),
        (["toxic"], None),
        (["reward"], "regression"),
    ],
)
def test_it_says_what_a_pipeline_of_transformers_says(tmp_path, make_samples, labels, problem_type):
    folder = save_classifier(tmp_path, labels, problem_type)
    with quiet():
        oracle = pipeline("text-classification", model=folder, top_k=None, device="cpu")
        rows = oracle(TEXTS)
    assert isinstance(rows, list)
    for label in labels:
        expected = [next(r["score"] for r in row if r["label"] == label) for row in rows]
        found = values(classifier(f"{folder}={label}"), make_samples(TEXTS))
        assert found == pytest.approx(expected, abs=1e-5)
    assert len(set(found)) == len(TEXTS)


def test_probabilities_of_the_labels_sum_to_one(folder, make_samples):
    samples = make_samples(TEXTS)
    rows = [values(classifier(f"{folder}={label}"), samples) for label in ("bad", "so-so", "good")]
    assert [sum(column) for column in zip(*rows, strict=True)] == pytest.approx([1.0] * len(TEXTS))


@settings(deadline=None, max_examples=20)
@given(texts=st.lists(st.text("abcdefgh xyé"), min_size=1, max_size=70))
def test_a_sample_is_scored_as_it_would_be_alone(folder, make_samples, texts):
    check_scorer(classifier(f"{folder}=good"), make_samples(texts))


def test_a_long_text_is_read_up_to_the_limit(folder, make_samples):
    samples = make_samples(["abcdabcd", "abcdabcd" + "h" * 1000, "abcdabce"])
    first, second, third = values(classifier(f"{folder}=good"), samples)
    assert second == pytest.approx(first, abs=1e-6)
    assert first != pytest.approx(third, abs=1e-6)


def test_a_tokenizer_that_knows_no_limit_takes_the_models(tmp_path, make_samples):
    folder = save_classifier(tmp_path, ["bad", "good"], model_max_length=10**30)
    scorer = classifier(f"{folder}=good")
    first, second, third = values(scorer, make_samples(["abcabc", "abcabcdefg", "abcabd"]))
    assert second == pytest.approx(first, abs=1e-6)
    assert first != pytest.approx(third, abs=1e-6)


def test_a_text_without_tokens_is_not_applicable(folder, make_samples):
    scores = evaluate(classifier(f"{folder}=good"), make_samples(["", "a", ""]))
    assert scores.applicable.tolist() == [False, True, False]
    assert len(evaluate(classifier(f"{folder}=good"), make_samples([])).values) == 0


def test_a_model_without_padding_reads_text_by_text(tmp_path, make_samples):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(LETTERS), n_positions=16, n_embd=8, n_layer=1, n_head=1)
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer_of(model_max_length=16).save_pretrained(tmp_path)
    samples = make_samples(TEXTS)
    scorer = classifier(f"{tmp_path}=LABEL_1")
    check_scorer(scorer, samples)
    assert len(set(values(scorer, samples))) == len(TEXTS)


def test_it_is_loaded_once_and_not_before_it_is_needed(folder, make_samples, monkeypatch):
    scorer = classifier(f"{folder}=good")
    assert "_loaded" not in vars(scorer)
    first = values(scorer, make_samples(["a"]))
    monkeypatch.setattr("attunement.scorers.classifiers._load", None)
    assert values(scorer, make_samples(["a"])) == first


def test_names():
    assert classifier("a/b=LABEL=1").name == "classifier:a/b=LABEL=1"
    assert (classifier("a/b=x=1").model, classifier("a/b=x=1").label) == ("a/b=x", "1")
    assert parse_scorer("sentiment") is sentiment
    assert parse_scorer("toxicity") is toxicity
    assert (sentiment.label, toxicity.label) == ("POSITIVE", "toxic")


@pytest.mark.parametrize("argument", ["", "model", "model=", "=label"])
def test_a_model_and_a_label_are_needed(argument):
    with pytest.raises(AttunementError, match="classifier:MODEL=LABEL, not"):
        classifier(argument)


def test_a_label_that_is_not_there(folder, make_samples):
    with pytest.raises(AttunementError, match=r"no label 'godo'; did you mean good\? there is bad"):
        values(classifier(f"{folder}=godo"), make_samples(["a"]))


@pytest.mark.parametrize("scorer", [sentiment, classifier("nobody/nothing=x")])
def test_without_a_hub_a_folder_is_asked_for(make_samples, scorer, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(AttunementError, match=r"no classifier can be .*name the folder of a class"):
        values(scorer, make_samples(["a"]))


def test_a_folder_that_holds_no_classifier(tmp_path, make_samples):
    scorer = classifier(f"{tmp_path}=x")
    with pytest.raises(AttunementError, match=r"check that its config.json, weights and tokenizer"):
        values(scorer, make_samples(["a"]))
    BertModel(
        BertConfig(
            vocab_size=10,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
        )
    ).save_pretrained(tmp_path)
    tokenizer_of(pad_token="#").save_pretrained(tmp_path)
    with pytest.raises(AttunementError, match=r"lacks weights of a classifier, classifier\.bias"):
        values(scorer, make_samples(["a"]))
