"""The ten papers, what of them can be run, and the run.

`reproduce` takes a paper and a scale, runs the cells that aren't there yet, judges the claims and
leaves `result.json` and `report.html` in its folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from attunement import processes, runs
from attunement.core import AttunementError
from attunement.reproduce import (
    arxiv_2106_04985,
    arxiv_2112_00791,
    arxiv_2205_11275,
    arxiv_2206_00761,
    arxiv_2302_08215,
)
from attunement.reproduce.cells import carry_out, jobs_here, open_folder
from attunement.reproduce.page import write_page
from attunement.reproduce.results import RESULT, Result, judge_all, tabulate
from attunement.reproduce.studies import Scale, Study


@dataclass(frozen=True)
class Paper:
    """A paper and what can be run of it.

    Attributes:
        number: Its arXiv number.
        title: Its title.
        studies: What is run at each scale; nothing where it isn't there yet.
    """

    number: str
    title: str
    studies: Mapping[Scale, Callable[[], Study]] = field(default_factory=dict)

    def study(self, scale: Scale) -> Study:
        """What is run at a scale.

        Raises:
            AttunementError: There is nothing yet, or it needs a GPU and there is none.
        """
        if scale not in self.studies:
            raise AttunementError(
                f"{self.number} can't be run yet: attune reproduce lists what can"
            )
        study = self.studies[scale]()
        if study.needs_gpu and not torch.cuda.is_available():
            raise AttunementError(
                f"the scale {scale} needs a GPU and this machine has none: choose quick or embedded"
            )
        return study


Sizes = TypeVar("Sizes")


def _scales(
    quick: Callable[[], Study],
    on_language: Callable[[Sizes], Study],
    embedded: Sizes,
    paper: Sizes,
) -> Mapping[Scale, Callable[[], Study]]:
    """What a paper's module offers, by scale."""
    return {
        Scale.QUICK: quick,
        Scale.EMBEDDED: partial(on_language, embedded),
        Scale.PAPER: partial(on_language, paper),
    }


PAPERS: tuple[Paper, ...] = (
    Paper(
        "2106.04985",
        "Energy-Based Models for Code Generation under Compilability Constraints",
        _scales(
            arxiv_2106_04985.quick,
            arxiv_2106_04985.on_language,
            arxiv_2106_04985.EMBEDDED,
            arxiv_2106_04985.PAPER,
        ),
    ),
    Paper(
        "2112.00791",
        "Controlling Conditional Language Models without Catastrophic Forgetting",
        _scales(
            arxiv_2112_00791.quick,
            arxiv_2112_00791.on_language,
            arxiv_2112_00791.EMBEDDED,
            arxiv_2112_00791.PAPER,
        ),
    ),
    Paper(
        "2206.00761",
        "On Reinforcement Learning and Distribution Matching for Fine-Tuning Language Models with "
        "no Catastrophic Forgetting",
        _scales(
            arxiv_2206_00761.quick,
            arxiv_2206_00761.on_language,
            arxiv_2206_00761.EMBEDDED,
            arxiv_2206_00761.PAPER,
        ),
    ),
    Paper(
        "2205.11275",
        "RL with KL penalties is better viewed as Bayesian inference",
        _scales(
            arxiv_2205_11275.quick,
            arxiv_2205_11275.on_language,
            arxiv_2205_11275.EMBEDDED,
            arxiv_2205_11275.PAPER,
        ),
    ),
    Paper(
        "2302.08215",
        "Aligning Language Models with Preferences through f-divergence Minimization",
        _scales(
            arxiv_2302_08215.quick,
            arxiv_2302_08215.on_language,
            arxiv_2302_08215.EMBEDDED,
            arxiv_2302_08215.PAPER,
        ),
    ),
    Paper("2302.08582", "Pretraining Language Models with Human Preferences"),
    Paper("2303.16749", "Improving Code Generation by Training with Natural Language Feedback"),
    Paper(
        "2111.06464",
        "Catalytic Role of Noise and Necessity of Inductive Biases in the Emergence of "
        "Compositional Communication",
    ),
    Paper(
        "2303.04544",
        "Models of symbol emergence in communication: a conceptual review and a guide for avoiding "
        "local minima",
    ),
    Paper(
        "2201.06900",
        "A continuity of Markov blanket interpretations under the free-energy principle",
    ),
)
"""The papers, in the order in which the project comes to them."""


def find_paper(number: str) -> Paper:
    """A paper by its arXiv number.

    Raises:
        AttunementError: It isn't one of the ten; the message lists them.
    """
    for paper in PAPERS:
        if paper.number == number:
            return paper
    known = ", ".join(paper.number for paper in PAPERS)
    raise AttunementError(f"{number!r} is none of the papers: there are {known}")


def reproduce(
    paper: Paper,
    scale: Scale,
    folder: Path,
    *,
    seed: int,
    on_cell: Callable[[str], None],
    jobs: int | None = 1,
) -> Result:
    """Run a paper's claims, or what is left of them, and write result and page.

    Args:
        paper: The paper.
        scale: The scale.
        folder: A vacant folder, or one in which this very reproduction was begun.
        seed: Which seeds.
        on_cell: Told of every cell as it begins.
        jobs: So many cells at once, each in a process of its own; None for what suits the machine.

    Raises:
        AttunementError: It can't be run, or the folder holds something else.
    """
    if processes.count() > 1:
        raise AttunementError("a reproduction runs in one process: start it without a launcher")
    study = paper.study(scale)
    return run_study(paper, scale, study, folder, seed=seed, on_cell=on_cell, jobs=jobs)


def run_study(
    paper: Paper,
    scale: Scale,
    study: Study,
    folder: Path,
    *,
    seed: int,
    on_cell: Callable[[str], None],
    jobs: int | None = 1,
) -> Result:
    """As `reproduce`, with a study of any size."""
    recipe = {"kind": "reproduce", "paper": paper.number, "scale": scale.value, "seed": seed}
    open_folder(folder, {**recipe, "sizes": study.sizes})
    jobs = jobs_here(study) if jobs is None else jobs
    seeds, seconds = carry_out(study, seed, folder, on_cell, jobs)
    result = Result(
        paper=paper.number,
        title=paper.title,
        scale=scale,
        summary=study.summary,
        seconds=seconds,
        seeds=study.seeds,
        claims=judge_all(study, seeds),
        table=tabulate(study, seeds),
        sizes=study.sizes,
        versions=runs.versions(),
    )
    runs.write_json(folder / RESULT, result.to_json())
    write_page(result, folder / runs.REPORT)
    return result
