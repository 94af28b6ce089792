"""What a text classifier of transformers says of the completion: the probability of a label.

`classifier:MODEL=LABEL` reads any sequence classifier, from the hub or a folder; `sentiment` and
`toxicity` are two of the hub's. The number is what a `text-classification` pipeline gives: softmax
over the labels, a sigmoid of each where they don't exclude each other (the configuration's
`problem_type`, or a single label), and the value itself of a regression, such as a reward model.

The model is loaded when it is first called, once. A text of more tokens than the model takes is
read up to its limit; one without any token isn't applicable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attunement.core import AttunementError, Samples, Scores
from attunement.scorers.base import as_scores, suggestion

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SENTIMENT = ("distilbert/distilbert-base-uncased-finetuned-sst-2-english", "POSITIVE")
"""The hub id and the label behind `sentiment`: films' reviews, positive or not."""
TOXICITY = ("unitary/toxic-bert", "toxic")
"""The hub id and the label behind `toxicity`."""
_BATCH_SIZE = 32
_OFFSET = 2
"""Positions of a model like RoBERTa that no token of a text can have."""


@dataclass(frozen=True)
class Classifier:
    """The probability of a label, by a classifier that is loaded when it is first needed.

    Attributes:
        name: How the feature is called.
        model: A hub id or a folder.
        label: One of the model's labels.
    """

    name: str
    model: str
    label: str

    def __call__(self, samples: Samples) -> Scores:
        """The probability of the label for each completion.

        Raises:
            AttunementError: The model can't be loaded, or has no such label.
        """
        rows = self._loaded.tokenize(samples.texts)
        filled = [index for index, row in enumerate(rows) if row]
        filled.sort(key=lambda index: len(rows[index]), reverse=True)
        numbers: list[float | None] = [None] * len(rows)
        size = self._loaded.batch_size
        for start in range(0, len(filled), size):
            batch = filled[start : start + size]
            values = self._loaded.values([rows[index] for index in batch])
            for index, value in zip(batch, values[:, self._column].tolist(), strict=True):
                numbers[index] = value
        return as_scores(numbers)

    @cached_property
    def _loaded(self) -> _Loaded:
        return _load(self.model)

    @cached_property
    def _column(self) -> int:
        labels = self._loaded.labels
        if self.label not in labels:
            raise AttunementError(
                f"the classifier {self.model} has no label {self.label!r}; "
                f"{suggestion(self.label, labels)}"
            )
        return labels.index(self.label)


@dataclass(frozen=True)
class _Loaded:
    """A classifier in memory.

    Attributes:
        model: The model, in eval mode.
        tokenizer: Its tokenizer.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def labels(self) -> list[str]:
        names: Any = self.model.config.id2label
        return [names[index] for index in sorted(names)]

    @property
    def batch_size(self) -> int:
        """One where the tokenizer has nothing to pad with."""
        return 1 if self.tokenizer.pad_token_id is None else _BATCH_SIZE

    @property
    def limit(self) -> int | None:
        """Tokens that the model takes; None where there is no limit."""
        positions = getattr(self.model.config, "max_position_embeddings", None)
        named = int(self.tokenizer.model_max_length)
        if positions is None or named <= positions:
            return named if named < 10**9 else None  # transformers says 10**30 for none
        return positions - _OFFSET

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, cut at the model's limit."""
        if not texts:
            return []
        limit = self.limit
        encoded = self.tokenizer(list(texts), truncation=limit is not None, max_length=limit)
        return [list(row) for row in encoded["input_ids"]]

    @torch.inference_mode()
    def values(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """[N, labels] float64: what the model says of N rows of token ids."""
        padded = {"input_ids": [list(row) for row in rows]}
        if len(rows) > 1:
            inputs = self.tokenizer.pad(padded, return_tensors="pt")
        else:
            ids = torch.tensor(padded["input_ids"])
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        inputs = {key: tensor.to(self.model.device) for key, tensor in inputs.items()}
        logits = self.model(**inputs).logits.double().cpu()
        match self.model.config.problem_type:
            case "regression":
                return logits
            case "multi_label_classification":
                return logits.sigmoid()
            case _:
                return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def classifier(argument: str) -> Classifier:
    """The probability of a label by a classifier of the hub or in a folder.

    Args:
        argument: `MODEL=LABEL`, split at the last equals sign.

    Raises:
        AttunementError: The model or the label is missing.
    """
    model, _, label = argument.rpartition("=")
    if not model or not label:
        raise AttunementError(
            f"classifier needs a model and a label, classifier:MODEL=LABEL, not {argument!r}"
        )
    return Classifier(f"classifier:{argument}", model, label)


sentiment = Classifier("sentiment", *SENTIMENT)
"""The probability that the completion is positive, by a classifier of film reviews in English."""

toxicity = Classifier("toxicity", *TOXICITY)
"""The probability that the completion is toxic, by a classifier of comments in English."""


def _load(source: str) -> _Loaded:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from attunement.hub import UNREADABLE, first_line, quiet

    folder = Path(source).expanduser()
    place = folder if folder.is_dir() else source
    with quiet():
        try:
            loaded: Any = AutoModelForSequenceClassification.from_pretrained(
                place, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(place)
        except (*UNREADABLE, TypeError) as error:
            mend = (
                "check that its config.json, weights and tokenizer are complete"
                if folder.is_dir()
                else "check its name and the connection; without one, name the folder of a "
                "classifier that was saved before (classifier:FOLDER=LABEL)"
            )
            raise AttunementError(
                f"no classifier can be loaded from {source}: {mend} ({first_line(error)})"
            ) from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise AttunementError(
            f"{source} lacks weights of a classifier, {missing[0]} among them: it is another kind "
            "of model, or not trained to classify"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return _Loaded(model.eval().to(device), tokenizer)
