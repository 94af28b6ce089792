"""Studies of seconds, and the run of one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from attunement.reproduce import exact
from attunement.reproduce.exact import ExactSizes
from attunement.reproduce.language import LanguageSizes
from attunement.reproduce.papers import find_paper, run_study
from attunement.reproduce.results import Result
from attunement.reproduce.studies import Scale, Study


@pytest.fixture
def tiny() -> ExactSizes:
    """Two seeds, a handful of steps, 40 outcomes."""
    common = exact.COMMON.model_copy(
        update={
            "max_steps": 4,
            "evaluate_every": 2,
            "batch_size": 64,
            "samples_per_context": 16,
            "bank_size": 256,
        }
    )
    return ExactSizes(seeds=2, settings=common, vocabulary=4, max_new_tokens=3)


def shrink(sizes: LanguageSizes) -> LanguageSizes:
    """The same study of a language model, cut to seconds."""
    settings = sizes.settings.model_copy(
        update={
            "max_steps": 2,
            "evaluate_every": 2,
            "batch_size": 16,
            "samples_per_context": 4,
            "bank_size": 256,
            "evaluation_size": 16,
        }
    )
    few = sizes.prompts and replace(sizes.prompts, most=4, most_held_out=2)
    return replace(
        sizes,
        seeds=1,
        settings=settings,
        model=sizes.model.model_copy(update={"max_new_tokens": 40}),
        measure_size=64,
        fit_size=128,
        prompts=few,
    )


@pytest.fixture
def smoke(tmp_path: Path) -> Callable[[str, Study], Result]:
    """Run a study and check what holds of any: every claim has a verdict, and JSON its form."""

    def run(number: str, study: Study) -> Result:
        result = run_study(
            find_paper(number), Scale.QUICK, study, tmp_path / "run", seed=0, on_cell=print
        )
        assert len(result.claims) == len(study.claims)
        assert Result.from_json(result.to_json()).to_json() == result.to_json()
        assert (tmp_path / "run" / "report.html").is_file()
        shown = {name for row in result.table.values() for name in row}
        assert shown == set(study.columns)
        return result

    return run


@pytest.fixture
def shrunk() -> Callable[[LanguageSizes], LanguageSizes]:
    """From the sizes of a scale to those of seconds."""
    return shrink
