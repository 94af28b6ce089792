"""Samples as a page shows them: in columns by their source, each under its prompt.

Which samples, how much of each, and in which words; the template lays them out. Texts and prompts
are untrusted: control characters are made visible here, and the template escapes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attunement.report.contents import Reading, Shown
from attunement.report.words import satisfies, visible

MOST_SAMPLES = 24
"""Samples of a column that the page shows, of as many contexts as it can; the rest stays in
`samples.jsonl`."""
MOST_EVALUATIONS = 6
"""Evaluations whose samples the page shows: first, last and some between."""
MOST_CHARACTERS = 1600
"""Characters of a sample that the page shows."""
MOST_OF_A_TURN = 600
"""Characters of a prompt, or of each message of one, that the page shows: of both its ends."""


@dataclass(frozen=True)
class Turn:
    """A prompt, or one message of a conversation, as it is shown.

    Attributes:
        role: Who speaks; `prompt` where the prompt is a text.
        beginning: Its text, control characters made visible; the first half where it is long.
        left_out: Characters left out behind the beginning.
        end: What stands behind those; empty where nothing is left out.
    """

    role: str
    beginning: str
    left_out: int = 0
    end: str = ""


@dataclass(frozen=True)
class Specimen:
    """A sample as it is shown.

    Attributes:
        prompt: What it goes on from or answers; none where the run has no prompts.
        text: The text, control characters made visible.
        left_out: Characters cut from its end.
        mark: `yes`, `no` or `plain`: the colour.
        word: The same in a word, for those who don't see the colour.
        details: Features and log-probabilities.
    """

    prompt: tuple[Turn, ...]
    text: str
    left_out: int
    mark: str
    word: str
    details: str


@dataclass(frozen=True)
class Column:
    """Samples from one source; `left_out` counts those that aren't shown."""

    heading: str
    specimens: tuple[Specimen, ...]
    left_out: int


def columns(reading: Reading) -> tuple[Column, ...]:
    """The samples of base, policy and target, where there are some."""
    headings = {
        "before": "Before: the base",
        "after": "After: the policy",
        "target": "Exact samples of the target",
    }
    found = (
        _column(reading, heading, lambda sample, when=when: sample.when == when)
        for when, heading in headings.items()
    )
    return tuple(column for column in found if column.specimens)


def during(reading: Reading) -> tuple[Column, ...]:
    """The samples of the policy on the way, by step."""
    steps = sorted({sample.step for sample in reading.samples if sample.when == "during"})
    if len(steps) > MOST_EVALUATIONS:
        last = len(steps) - 1
        chosen = {round(i * last / (MOST_EVALUATIONS - 1)) for i in range(MOST_EVALUATIONS)}
        steps = [steps[index] for index in sorted(chosen)]
    return tuple(
        _column(reading, f"Step {at}", lambda s, at=at: s.when == "during" and s.step == at)
        for at in steps
    )


def _column(reading: Reading, heading: str, chosen: Callable[[Shown], bool]) -> Column:
    samples = [sample for sample in reading.samples if chosen(sample)]
    specimens = tuple(_specimen(reading, sample) for sample in _few(samples))
    return Column(heading, specimens, len(samples) - len(specimens))


def _few(samples: Sequence[Shown]) -> list[Shown]:
    """At most `MOST_SAMPLES`: one of each context, then another of each; in the order given."""
    earlier: Counter[int] = Counter()
    ranks = []
    for sample in samples:
        ranks.append(earlier[sample.context])
        earlier[sample.context] += 1
    chosen = sorted(range(len(samples)), key=ranks.__getitem__)[:MOST_SAMPLES]
    return [samples[index] for index in sorted(chosen)]


def _specimen(reading: Reading, sample: Shown) -> Specimen:
    answer = satisfies(reading, sample)
    mark, word = {True: ("yes", "✓ yes"), False: ("no", "✗ no"), None: ("plain", "")}[answer]
    if not sample.allowed:
        word = "✗ forbidden"
    features = [
        f"{name} {'n/a' if value is None else f'{value:g}'}"
        for name, value in sample.features.items()
    ]
    log_probs = [
        f"{name} {value:.1f}".replace("-", "−")
        for name, value in (("log a", sample.log_base), ("log π", sample.log_policy))
    ]
    cut = [] if sample.finished else ["cut at max_new_tokens"]
    return Specimen(
        prompt=_turns(reading, sample),
        text=visible(sample.text[:MOST_CHARACTERS]),
        left_out=max(0, len(sample.text) - MOST_CHARACTERS),
        mark=mark,
        word=word,
        details=" · ".join([*features, *log_probs, *cut]),
    )


def _turns(reading: Reading, sample: Shown) -> tuple[Turn, ...]:
    """A sample's prompt; none where the run has no prompts or its log doesn't say them."""
    if sample.prompt is None or not reading.recipe.conditional:
        return ()
    if isinstance(sample.prompt, str):
        return (turn("prompt", sample.prompt),)
    return tuple(turn(message["role"], message["content"]) for message in sample.prompt)


def turn(role: str, text: str) -> Turn:
    """A turn that is fit to be shown.

    Of a long text both ends: a completion goes on from the one, a task may stand at the other.

    Args:
        role: Who speaks.
        text: What is said.
    """
    left_out = max(0, len(text) - MOST_OF_A_TURN)
    if left_out == 0:
        return Turn(visible(role), visible(text) or "(empty)")
    half = MOST_OF_A_TURN // 2
    return Turn(visible(role), visible(text[:half]), left_out, visible(text[-half:]))
