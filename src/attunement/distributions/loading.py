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
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from attunement import processes
from attunement.core import AttunementError, Outcomes, Stop
from attunement.distributions.forward import fuse_activations
from attunement.distributions.probing import require_decodable
from attunement.distributions.tiny import TINY_PYTHON, tiny_python_path
from attunement.hub import UNREADABLE, first_line, quiet
from attunement.sharding import full, is_sharded


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


def require_length(max_new_tokens: int | None) -> int:
    """The length at which completions are cut.

    Raises:
        AttunementError: It isn't given.
    """
    if max_new_tokens is None:
        raise AttunementError(
            "max_new_tokens is missing: say where completions are cut (--max-new-tokens 64)"
        )
    return max_new_tokens


def load_network(
    model: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | str | Path | None,
    *,
    has_encoder: bool,
    dtype: torch.dtype,
    device: str | torch.device | None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A network of the family asked for and its tokenizer, where they shall compute.

    Args:
        model: A hub id, a folder, `tiny-python`, or a model object, which is not copied.
        tokenizer: A tokenizer or where to find one; None for where the model is.
        has_encoder: Whether an encoder-decoder model is meant, or a causal one.
        dtype: What weights are loaded as; an object keeps its own.
        device: Where to put it; by default an object stays where it is, and others go to the
            first GPU if there is one.

    Raises:
        AttunementError: Something can't be found or read, is of the other family, or is a model
            that can't be decoded.
    """
    if device is not None:
        require_device(device)
    if has_encoder != is_encoder_decoder(model):
        name = model.name_or_path if isinstance(model, PreTrainedModel) else model
        word, owner = ("no", "Causal") if has_encoder else ("an", "Seq2Seq")
        raise AttunementError(
            f"{name} has {word} encoder: load it with {owner}.load, or with attunement.load"
        )
    if isinstance(model, PreTrainedModel):
        network = model
        if tokenizer is None:
            raise AttunementError("a model object needs its tokenizer: give tokenizer=...")
    else:
        source = tiny_python_path() if model == TINY_PYTHON else model
        network = load_model(source, dtype, has_encoder=has_encoder)
        tokenizer = source if tokenizer is None else tokenizer
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        tokenizer = load_tokenizer(tokenizer)
    fuse_activations(network)
    if device is not None:
        network.to(device=device)  # pyright: ignore[reportCallIssue]
    if not has_encoder:
        require_decodable(network)
    return network, tokenizer


def is_encoder_decoder(model: str | Path | PreTrainedModel) -> bool:
    """Whether a model reads its context with an encoder, as its configuration says.

    Raises:
        AttunementError: The configuration can't be found or read.
    """
    if isinstance(model, PreTrainedModel):
        return model.config.is_encoder_decoder
    if model == TINY_PYTHON:
        return False
    folder = local_folder(model)
    with quiet():
        try:
            return AutoConfig.from_pretrained(model).is_encoder_decoder
        except UNREADABLE as error:
            raise _unloadable(model, folder, error) from error


def load_model(source: str | Path, dtype: torch.dtype, *, has_encoder: bool) -> PreTrainedModel:
    """A language model from a hub id or a folder, in eval mode.

    Raises:
        AttunementError: It can't be found, read, or misses weights.
    """
    folder = local_folder(source)
    family = AutoModelForSeq2SeqLM if has_encoder else AutoModelForCausalLM
    with quiet():
        try:
            loaded: Any = family.from_pretrained(source, dtype=dtype, output_loading_info=True)
        except UNREADABLE as error:
            raise _unloadable(source, folder, error) from error
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise AttunementError(
            f"{source} lacks {len(missing)} of the model's weights, {missing[0]} among them: "
            "it isn't a complete language model"
        )
    return model


def _unloadable(source: str | Path, folder: Path | None, error: BaseException) -> AttunementError:
    where = f"folder {source}" if folder else f"hub id {source!r}"
    mend = (
        "check that its config.json and safetensors belong together and are complete"
        if folder
        else f"check its name and the connection, or give a local folder or '{TINY_PYTHON}'"
    )
    return AttunementError(f"no model can be loaded from {where}: {mend} ({first_line(error)})")


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
        if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
            raise AttunementError(
                f"folder {source} holds an adapter, not a model: load its base and give both to "
                "attunement.load_adapter"
            )
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

    The start of a model with an encoder is what its settings name as the decoder's start; that of
    a causal one is the tokenizer's BOS token, else its end token. A stop without a token of its own
    is given the model's: the tokenizer's end token, else the configuration's. Ids that the
    configuration or the generation settings list besides count as further end tokens where they
    are special tokens of the tokenizer; defaults that a configuration carries for a vocabulary
    of another size don't.

    Raises:
        AttunementError: There is no token to start from.
    """
    settings = [model.config.get_text_config(decoder=True).eos_token_id]
    if model.generation_config is not None:
        settings.append(model.generation_config.eos_token_id)
    listed = [token for setting in settings for token in _as_list(setting)]
    known = [token for token in listed if token in tokenizer.added_tokens_decoder]
    end = next(iter([*_as_list(tokenizer.eos_token_id), *known]), None)
    if model.config.is_encoder_decoder:
        start = _decoder_start(model)
    else:
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


def _decoder_start(model: PreTrainedModel) -> int:
    """The token that the decoder of a model with an encoder reads first."""
    settings = [getattr(model.config, "decoder_start_token_id", None)]
    if model.generation_config is not None:
        settings.append(model.generation_config.decoder_start_token_id)
    start = next((token for setting in settings for token in _as_list(setting)), None)
    if start is None:
        raise AttunementError(
            "the model's configuration doesn't say what its decoder starts from: set "
            "decoder_start_token_id (T5's is its padding token)"
        )
    return start


def _as_list(setting: object) -> list[int]:
    """The ids of a setting that is an id, a list of ids or None."""
    ids = setting if isinstance(setting, list) else [setting]
    return [token for token in ids if isinstance(token, int)]


def save_network(
    module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path | str
) -> None:
    """Write model (safetensors) and tokenizer as transformers does, to be loaded by either.

    All processes call it, since a sharded network is gathered for it; the main one writes.
    """
    state = module.state_dict()
    if is_sharded(module):
        state = {name: full(tensor) for name, tensor in state.items()}
    if processes.is_main():
        with quiet():
            module.save_pretrained(folder, state_dict=state)
            tokenizer.save_pretrained(folder)
