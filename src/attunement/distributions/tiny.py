"""Where the embedded language model lies.

`tiny-python` is a small language model of short Python functions, trained from scratch by
`recipes/tiny_python` and shipped with the package, so that everything can be tried, tested and
documented offline, in seconds, on a CPU. Its folder is an ordinary one of the transformers
library; its model card (`README.md` in that folder) says what it was trained on and how good it is.
"""

from __future__ import annotations

from pathlib import Path

from attunement.core import AttunementError

TINY_PYTHON = "tiny-python"
"""The name under which the embedded model is asked for."""

TINY_PYTHON_MAX_NEW_TOKENS = 64
"""The length, in tokens, at which its completions are cut unless another is asked for."""


def tiny_python_path() -> Path:
    """The folder of the embedded model: configuration, tokenizer, bfloat16 weights, model card.

    Raises:
        AttunementError: The installed package lacks the weights.
    """
    folder = Path(__file__).resolve().parent / "tiny_python"
    if not (folder / "model.safetensors").is_file():
        raise AttunementError(
            f"the embedded model is missing from {folder}: reinstall attunement, or train it with "
            "recipes/tiny_python/train.py"
        )
    return folder
