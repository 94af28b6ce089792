import json

import pytest


@pytest.mark.parametrize("which", [[], ["--target"]])
def test_sample_a_run(attune, run, which):
    done = attune("sample", str(run), "-n", "3", *which, "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 3
    assert not which or all("self" in row["text"] for row in rows)


def test_sample_an_untrained_target(attune):
    done = attune(
        "sample", "tiny-python", "--constrain=contains:self", "-n", "3", "--max-new-tokens=12"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--- ") == 3
    assert "exact samples of the target" in done.stderr
