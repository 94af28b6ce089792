import json
import shutil

import pytest


def test_measure_prints_what_is_documented(attune, run):
    done = attune("measure", str(run), "-n", "64", "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert set(printed) >= {"run", "n", "base", "policy", "divergences", "log_z", "warnings"}
    assert set(printed["divergences"]) >= {
        "forward_kl",
        "reverse_kl",
        "jensen_shannon",
        "total_variation",
        "kl_policy_base",
    }
    keys = {"value", "stderr", "low", "high", "n", "ess", "khat"}
    for estimate in (*printed["divergences"].values(), printed["log_z"], *printed["base"].values()):
        assert set(estimate) == keys
    assert printed["divergences"]["reverse_kl"]["value"] == "inf"


def test_a_model_is_measured_against_a_target(attune, run):
    done = attune(
        "measure", str(run / "policy"), "--base", "tiny-python", "--constrain=contains:self",
        "--max-new-tokens=12", "-n", "64",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "forward_kl" in done.stdout


@pytest.mark.parametrize(
    ("base", "sentence"), [("tiny-python", "has an encoder for"), ("other", "another tokenizer")]
)
def test_a_model_of_other_tokens_is_refused(attune, t5_folder, tmp_path, base, sentence):
    if base == "other":
        other = shutil.copytree(t5_folder, tmp_path / base)
        content = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
        words = content["model"]["vocab"]
        words["a"], words["b"] = words["b"], words["a"]
        (other / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        base = str(other)
    done = attune(
        "measure", str(t5_folder), "--base", base, "--constrain=contains:a",
        "--max-new-tokens=4", "-n", "64",
    )  # fmt: skip
    assert done.returncode == 1
    assert sentence in done.stderr
