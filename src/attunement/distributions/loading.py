"""Loading: from a hub id, a folder or an object to a model, its tokenizer and its outcomes.

What can go wrong here goes wrong before anything has been computed, and is said in one sentence
that names the mend. Sampling defaults that a checkpoint brings along (temperature, top-p) are
never read; of its generation settings only the further end tokens are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from attunement.core import AttunementError, Outcomes, Stop
from attunement.distributions.tiny import TINY_PYTHON
from attunement.hub import UNREADABLE, first_line, quiet


def require_device(device: str | torch.device) -> None:
    """Raise unless tensors can be put on a device.

    Raises:
        AttunementError: It is unknown, or isn't there.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = "cuda" if torch.cuda.is_available() else "no GPU"
        raise AttunementError(
            f"device {str(device)!r} can't be used here: leave it out or say cpu; PyTorch finds "
            f"{there} ({first_line(error)})"
        ) from error


def load_model(source: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    """A causal language model from a hub id or a folder, in eval mode.

    Raises:
        AttunementError: It can't be found, read, or misses weights.
    """
    folder = local_folder(source)
    with quiet():
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, output_loading_info=True
            )
        except UNREADABLE as error:
            where = f"folder {source}" if folder else f"hub id {source!r}"
            mend = (
                "check that its config.json and safetensors belong together and are complete"
                if folder
                else f"check its name and the connection, or give a local folder or '{TINY_PYTHON}'"
            )
            raise AttunementError(
                f"no model can be loaded from {where}: {mend} ({first_line(error)})"
            ) from error
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise AttunementError(
            f"{source} lacks {len(missing)} of the model's weights, {missing[0]} among them: "
            "it isn't a complete causal language model"
        )
    return model


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """A tokenizer from a hub id or a folder.

    Raises:
        AttunementError: There is none.
    """
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
        except (*UNREADABLE, TypeError) as error:
            raise AttunementError(
                f"no tokenizer can be loaded from {source}: give one with tokenizer=... "
                f"({first_line(error)})"
            ) from error
    # Where the files are missing, some classes come up with special tokens only.
    if tokenizer.vocab_size == 0:
        raise AttunementError(f"{source} holds no tokenizer: give one with tokenizer=...")
    return tokenizer


def local_folder(source: str | Path) -> Path | None:
    """The folder that a source names, or None where it is a hub id.

    Raises:
        AttunementError: It names a path where no model is.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise AttunementError(f"folder {source} has no config.json, so it holds no model")
        return path
    is_path = isinstance(source, Path) or source.startswith((".", "~", "/"))
    if is_path or str(source).count("/") > 1:
        raise AttunementError(
            f"there is no folder {source}: give a model's folder, a hub id or '{TINY_PYTHON}'"
        )
    return None


def model_outcomes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    stop: Stop | None,
    forbidden: frozenset[int],
) -> Outcomes:
    """The sample space of a model.

    The start is the tokenizer's BOS token, else its end token. A stop without a token of its own
    is given the model's: the tokenizer's end token, else the configuration's. Ids that the
    configuration or the generation settings list besides count as further end tokens where they
    are special tokens of the tokenizer; defaults that a configuration carries for a vocabulary
    of another size don't.

    Raises:
        AttunementError: There is no token to start from, or nothing but forbidden tokens.
    """
    settings = [model.config.get_text_config(decoder=True).eos_token_id]
    if model.generation_config is not None:
        settings.append(model.generation_config.eos_token_id)
    listed = [token for setting in settings for token in _as_list(setting)]
    known = [token for token in listed if token in tokenizer.added_tokens_decoder]
    end = next(iter([*_as_list(tokenizer.eos_token_id), *known]), None)
    start = next(iter(_as_list(tokenizer.bos_token_id)), end)
    if start is None:
        raise AttunementError(
            "the tokenizer has neither a BOS nor an end token to start from: set its bos_token"
        )
    stop = stop or Stop()
    if stop.token is None:
        further = stop.further_tokens | (frozenset(known) - {end})
        stop = Stop(end, stop.strings, stop.function, further)
    return Outcomes(start, stop, max_new_tokens, forbidden)


def _as_list(setting: object) -> list[int]:
    """The ids of a setting that is an id, a list of ids or None."""
    ids = setting if isinstance(setting, list) else [setting]
    return [token for token in ids if isinstance(token, int)]
