"""One whole tuning step per CPU-second, against TRL's RLOO with a reference model.

Both sides draw 128 completions of 64 tokens from the policy, score them by base (TRL: reference
model), policy and one reward, and make one AdamW update towards the same optimum, base × exp(r/β),
β = 0.05: ours minimises the reverse KL from it, TRL maximises the reward with a KL penalty. The
shape, the thread and the full-vocabulary sampling at temperature 1 are those of `decode.py`; no row
ends early on either side. TRL's gradient checkpointing, on by default, is off, which makes it
faster here. TRL times itself inside one training, our step runs between its steps, in turn.

    python benchmarks/step.py --repetitions 9
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import decode
import harness
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer

from attunement import Target, TuningSettings, init, step
from attunement.distributions.causal import Causal

BETA, GENERATIONS, PROMPT = 0.05, 8, "t1"


def share_of_even(completion_ids: list[list[int]], **_: object) -> list[float | None]:
    """The reward of both sides, cheap to compute: the share of even token ids."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def our_step() -> Callable[[], None]:
    """One step of ours, ready to be repeated."""
    base = Causal.load(
        decode.reference_model(),
        tokenizer=decode.any_tokenizer(),
        max_new_tokens=decode.TOKENS,
        forbidden=frozenset({decode.END}),
    )
    target = Target(base).tilt(share_of_even, beta=BETA)
    settings = TuningSettings(
        divergence="reverse_kl",
        batch_size=decode.SEQUENCES,
        bank_size=decode.SEQUENCES,
        learning_rate=1e-5,
    )
    problem, state = init(target, [PROMPT], settings)

    def run() -> None:
        assert step(problem, state).tokens == decode.SEQUENCES * decode.TOKENS

    return run


class InTurn(TrainerCallback):
    """Times each of the trainer's steps, and a step of ours after it.

    Attributes:
        pairs: CPU-seconds of ours and of the trainer's, a pair a step.
    """

    def __init__(self, ours: Callable[[], None]):
        """Hold our step."""
        self.ours = ours
        self.pairs: list[tuple[float, float]] = []
        self.started = 0.0

    def on_step_begin(self, *_: object, **__: object) -> None:
        """The trainer's step begins: its samples are drawn inside."""
        self.started = time.process_time()

    def on_step_end(self, *_: object, **__: object) -> None:
        """The trainer has updated."""
        peer = time.process_time() - self.started
        self.pairs.append((harness.cpu_seconds(self.ours), peer))


def train(folder: Path, callback: InTurn, steps: int) -> None:
    """Train by TRL's RLOO for some steps."""
    model: Any = decode.reference_model()
    model.save_pretrained(folder / "model")
    arguments = RLOOConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=decode.SEQUENCES,
        num_generations=GENERATIONS,
        max_completion_length=decode.TOKENS,
        generation_kwargs={"min_new_tokens": decode.TOKENS},
        beta=BETA,
        learning_rate=1e-5,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=steps + 1,
    )
    trainer = RLOOTrainer(
        model=str(folder / "model"),
        reward_funcs=share_of_even,
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": [PROMPT] * decode.SEQUENCES}),
        processing_class=decode.any_tokenizer(),
        callbacks=[callback],
    )
    trainer.train()


def main() -> None:
    """Run the comparison and write `results/step.json`."""
    repetitions = harness.repetitions_wanted(__doc__ or "", default=9)
    callback = InTurn(our_step())
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder), callback, 1 + repetitions)
    torch.set_num_threads(1)
    result = harness.summarise(
        "step: GPT-2 shape, 128 x 64 tokens, against TRL RLOO with a reference model",
        callback.pairs[1:],
        work=decode.SEQUENCES,
        unit="samples per CPU-second",
    )
    harness.write(result, "step.json")


if __name__ == "__main__":
    main()
