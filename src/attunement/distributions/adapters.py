"""Adapters: a policy that is its base plus a few small matrices, in the memory of one model.

A linear layer x ↦ W·x of the base becomes

    W·x + (alpha / rank) · B·A·x,    A: [rank, in],  B: [out, rank],

and only A and B are trained (LoRA, Hu et al. 2021, arXiv 2106.09685). A is random and B is zero at
the start, so the policy starts as the base exactly.

Base, policy, averaged weights and proposals each have a network of their own, made of the same
weights: the layers are separate objects, but the tensors W are one. A weight is held once however
many policies there are, and nothing needs to be switched on or off: the base's network has no
adapter in it, and no order of calls can let one policy's adapter into another's forward pass.

The networks are transformers' own with layers of PEFT in them, so a policy with an adapter is a
`Causal` or `Seq2Seq` like any other; `save` writes PEFT's folder, which either library can load.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, final

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from attunement.core import AttunementError, MissingExtraError
from attunement.distributions.causal import Causal
from attunement.distributions.language import LanguageModel
from attunement.distributions.seq2seq import Seq2Seq
from attunement.distributions.tiny import TINY_PYTHON, tiny_python_path
from attunement.hub import located
from attunement.runs import read_json

if TYPE_CHECKING:
    from peft import PeftConfig

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = "default"

Model = TypeVar("Model", bound=LanguageModel)


class AdapterSettings(BaseModel):
    """The form of a LoRA adapter.

    Attributes:
        lora_rank: Rows of A and columns of B.
        lora_alpha: The adapter's output is multiplied by alpha / rank.
        lora_target_modules: The linear layers that get one, by the end of their names; every one
            but the head where empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lora_rank: int = Field(default=8, ge=1)
    lora_alpha: int = Field(default=16, ge=1)
    lora_target_modules: tuple[str, ...] = ()


def with_adapter(
    base: LanguageModel, settings: AdapterSettings | None = None, *, generator: torch.Generator
) -> Causal | Seq2Seq:
    """A policy that starts as its base and of which only a new adapter is trained.

    Args:
        base: The base; it stays as it is, and its weights are the policy's.
        settings: The adapter's form; the defaults where None.
        generator: The source of A.

    Raises:
        AttunementError: A target module isn't there, or the base has an adapter already.
        MissingExtraError: PEFT isn't installed.
    """
    _require_peft()
    from peft import LoraConfig

    settings = AdapterSettings() if settings is None else settings
    layers = _linear_layers(base.module)
    known = sorted({name.rpartition(".")[2] for name in layers})
    targets = settings.lora_target_modules or tuple(known)
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            raise AttunementError(
                f"the model has no linear layer {target!r} that an adapter could lie on; there is "
                + ", ".join(known)
            )
    config = LoraConfig(
        task_type="SEQ_2_SEQ_LM" if base.module.config.is_encoder_decoder else "CAUSAL_LM",
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        target_modules=list(targets),
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
    )
    policy = _over(base, config)
    for name, parameter in policy.module.named_parameters():
        if ".lora_A." in name:
            start = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
            parameter.data.copy_(start)
    return policy


def load_adapter(base: LanguageModel, folder: Path | str) -> Causal | Seq2Seq:
    """A policy from the folder of an adapter, written by `save` or by PEFT.

    Args:
        base: The model that it was made for; it stays as it is, and its weights are the policy's.
        folder: The folder.

    Raises:
        AttunementError: It can't be read, is of another model, or isn't LoRA without extras.
        MissingExtraError: PEFT isn't installed.
    """
    _require_peft()
    from peft import LoraConfig

    entries = read_json(Path(folder) / _CONFIG)
    extras = ("modules_to_save", "use_dora", "lora_bias", "trainable_token_indices")
    plain = (
        entries.get("peft_type") == "LORA"
        and entries.get("bias", "none") == "none"
        and isinstance(entries.get("init_lora_weights", True), bool)
        and not any(entries.get(name) for name in extras)
    )
    if not plain:
        raise AttunementError(
            f"{folder} isn't an adapter of plain LoRA, the one kind that can share its base's "
            "weights: merge it with peft and load the model that comes out"
        )
    policy = _over(base, LoraConfig.from_pretrained(str(folder)))
    try:
        tensors = load_file(Path(folder) / _WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise AttunementError(f"{Path(folder) / _WEIGHTS} can't be read: {error}") from error
    own = {
        f"base_model.model.{name}": tensor
        for name, tensor in policy.module.get_adapter_state_dict().items()
    }
    if {k: t.shape for k, t in own.items()} != {k: t.shape for k, t in tensors.items()}:
        raise AttunementError(f"{folder} holds the adapter of another model than its base")
    for name, tensor in own.items():
        tensor.copy_(tensors[name])
    return policy


@torch.no_grad()
def merge_adapter(policy: LanguageModel, base: Model) -> Model:
    """A model of its own whose weights are those of the base with the adapter's added.

    Args:
        policy: A policy with an adapter.
        base: The base that it lies over.

    Raises:
        AttunementError: The policy has no adapter.
        MissingExtraError: PEFT isn't installed.
    """
    _require_peft()
    from peft.tuners.lora import Embedding, Linear

    adapted = {
        name: part
        for name, part in policy.module.named_modules()
        if isinstance(part, (Linear, Embedding))
    }
    if not adapted:
        raise AttunementError("the policy has no adapter that could be merged")
    result = base.copy()
    for name, layer in adapted.items():
        result.module.get_parameter(f"{name}.weight").add_(layer.get_delta_weight(_NAME))
    return result


def adapter_base(source: Path | str) -> str | None:
    """The base that the adapter in a folder names, or None where the source is no such folder.

    `tiny-python` is called by its name wherever it is installed.

    Raises:
        AttunementError: The adapter's configuration can't be read or names no base.
    """
    folder = Path(source)
    if not (folder / _CONFIG).is_file() or (folder / "config.json").is_file():
        return None
    name = read_json(folder / _CONFIG).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise AttunementError(
            f"{folder / _CONFIG} names no base: load the base and give it to load_adapter"
        )
    return _known_as(name)


def is_base(model: LanguageModel, name: str) -> bool:
    """Whether a model is the one that an adapter names (`adapter_base`), without an adapter."""
    return not _has_adapter(model.module) and _known_as(str(model.module.name_or_path)) == name


@final
class _Shared(nn.Parameter):
    """A frozen weight that the copies of a network have in common."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


def _over(base: LanguageModel, config: PeftConfig) -> Causal | Seq2Seq:
    """The base's weights in layers of the policy's own, with a new adapter on top, in float32."""
    if _has_adapter(base.module):
        raise AttunementError("the model has an adapter already: start from it as it is")
    shared = {id(p): _Shared(p.detach(), requires_grad=False) for p in base.module.parameters()}
    module = copy.deepcopy(base.module, shared)
    config.inference_mode = False
    try:
        with torch.random.fork_rng(devices=[]):  # PEFT draws numbers of its own
            module.add_adapter(config, _NAME)
    except ValueError as error:
        raise AttunementError(f"the adapter doesn't fit the model: {error}") from error
    for parameter in module.parameters():
        if parameter.requires_grad:  # in bfloat16 most of a small step would be lost
            parameter.data = parameter.data.float()
    family = Seq2Seq if module.config.is_encoder_decoder else Causal
    return family(module.eval(), base.tokenizer, base.outcomes, batch_size=base.batch_size)


def _has_adapter(module: PreTrainedModel) -> bool:
    return any(".lora_A." in name for name, _ in module.named_parameters())


def _linear_layers(module: PreTrainedModel) -> dict[str, nn.Module]:
    """What an adapter can lie on, by full name: every linear layer but the head."""
    head = module.get_output_embeddings()
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, (nn.Linear, Conv1D)) and part is not head
    }


def _known_as(name: str) -> str:
    """A hub id or an absolute path; the folder of any installed `tiny-python` is that name's."""
    own = tiny_python_path().parts[-3:]
    return TINY_PYTHON if name == TINY_PYTHON or Path(name).parts[-3:] == own else located(name)


def _require_peft() -> None:
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("an adapter", "peft") from error
