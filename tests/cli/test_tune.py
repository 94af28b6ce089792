import json
import os
import shutil
import signal
import time

import pytest
from safetensors.torch import load_file


def test_a_recipe_runs_again(attune, run, tmp_path):
    done = attune(
        "tune", "--recipe", str(run / "recipe.json"), "--output-dir", str(tmp_path / "again")
    )
    assert done.returncode == 0, done.stderr
    first = load_file(run / "checkpoints/step-3/policy.safetensors")
    second = load_file(tmp_path / "again/checkpoints/step-3/policy.safetensors")
    assert all((first[name] == second[name]).all() for name in first)


def test_kill_9_and_resume_give_the_same_weights(attune, start, job, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = [*job, "--max-steps=8", "--output-dir"]
    assert attune("tune", *arguments, str(whole)).returncode == 0
    process = start("tune", *arguments, str(killed))
    while not (killed / "checkpoints/step-2/counters.json").exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (killed / "measurement.json").exists()
    done = attune("tune", "--resume", "--output-dir", str(killed))
    assert done.returncode == 0, done.stderr
    for name in ("checkpoints/step-8/policy.safetensors", "policy/model.safetensors"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()


USER_FILE = """
def raises(texts):
    raise RuntimeError("no such luck")

def nan(texts):
    return [float("nan")] * len(texts)

def short(texts):
    return [1.0]

def strange(a, b, c):
    return a
"""


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--constrain", "compile"], 2, "compiles"),
        (["--constrain", "missing.py:f"], 2, "missing.py"),
        (["--constrain", "mine.py:absent"], 2, "absent"),
        (["--constrain", "mine.py:strange"], 2, "strange"),
        (["--constrain", "mine.py:raises"], 1, "no such luck"),
        (["--constrain", "mine.py:nan"], 1, "nan"),
        (["--constrain", "mine.py:short"], 1, "short"),
        (["--constrain", "contains:@@@@"], 1, "none of 64 samples"),
        (["--match", "pep8_per_line=999"], 1, "can't be reached"),
        (["--match", "length"], 2, "SPEC=NUMBER"),
        (["--match", "contains:self=1"], 1, "use constrain"),
        (["--constrain", "compiles", "--divergence", "reverse_kl"], 2, "--floor"),
        (["--constrain", "compiles", "--divergence", "jensen"], 2, "jensen_shannon"),
        (["--constrain", "compiles", "--learning-rate", "0"], 2, "--learning-rate"),
        (["--constrain", "compiles", "--prompts", "empty.jsonl"], 2, "empty"),
        (["--constrain", "compiles", "--prompt", "x = 1\n" * 400], 1, "context"),
        (["--constrain", "compiles", "--base", "nobody/nothing"], 1, "tiny-python"),
        (["--constrain", "compiles", "--policy", "nobody/nothing"], 1, "nobody/nothing"),
        (["--constrain", "compiles", "--proposal", "other"], 2, "--proposal-model"),
        (["--constrain", "compiles", "--proposal-model", "runs/first"], 2, "--proposal other"),
        (["--match", "length=9", "--objective", "reward"], 2, "a proportion is no reward"),
        (["--constrain", "compiles", "--reward-to-go"], 2, "reverse_kl"),
        (["--tilt", "length=1"], 2, "--beta"),
        (["--tilt", "length=1", "--beta", "0"], 2, "--beta"),
        (["--constrain", "compiles", "--floor", "1"], 2, "--floor"),
        (["--constrain", "compiles", "--stop-preset", "java"], 2, "python-function"),
        (["--constrain", "compiles", "--device", "warp"], 1, "device 'warp'"),
        ([], 2, "no factor"),
    ],
)
def test_bad_input_is_one_sentence(
    attune, small, tmp_path, monkeypatch, arguments, status, sentence
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(USER_FILE)
    (tmp_path / "empty.jsonl").write_text("")
    done = attune(
        "tune", *small, "--fit-size=64", "--max-steps=2", "--output-dir", "out", *arguments,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_occupied_folder(attune, run):
    done = attune("tune", "--constrain=contains:self", "--output-dir", str(run))
    assert done.returncode == 2
    assert "holds another run" in done.stderr


def test_an_option_beside_resume_has_no_use(attune, run):
    done = attune("tune", "--resume", "--seed", "3", "--output-dir", str(run))
    assert done.returncode == 2
    assert "--seed has no use here" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--objective=reward", "--proposal=policy"],
        ["--objective=trajectory_balance", "--divergence=jensen_shannon", "--replay=1"],
        ["--proposal-temperature=1.3", "--proposal-top-p=0.9", "--gradient-variance"],
    ],
)
def test_other_ways_to_learn_resume_bit_for_bit(attune, job, tmp_path, options):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert attune("tune", *job, *options, "--max-steps=3", f"--output-dir={whole}").returncode == 0
    shutil.copytree(whole, cut)
    for later in ("checkpoints/step-3", "policy"):
        shutil.rmtree(cut / later)
    (cut / "measurement.json").unlink()
    done = attune("tune", "--resume", "--output-dir", str(cut))
    assert done.returncode == 0, done.stderr
    for name in ("checkpoints/step-3/policy.safetensors", "policy/model.safetensors"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()


def test_another_runs_policy_can_be_drawn_from(attune, job, run, tmp_path):
    done = attune(
        "tune", *job, "--max-steps=2", "--proposal=other", f"--proposal-model={run}",
        f"--output-dir={tmp_path / 'new'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_constraint_can_read_the_columns_of_its_context(attune, small, tmp_path):
    scorer = tmp_path / "wanted.py"
    scorer.write_text(
        "def has_word(prompts, completions, word):\n"
        "    return [w in text for w, text in zip(word, completions, strict=True)]\n"
    )
    prompts = tmp_path / "prompts.jsonl"
    rows = [("def f(self):\n", "self"), ("def g(x):\n", "return"), ("def h(x):\n", "\u00e4")]
    prompts.write_text("".join(json.dumps({"prompt": p, "word": w}) + "\n" for p, w in rows))
    folder = tmp_path / "run"
    done = attune(
        "tune",
        f"--constrain={scorer}:has_word",
        f"--prompts={prompts}",
        *small,
        "--max-steps=1",
        "--output-dir",
        str(folder),
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 3 contexts have no sample in the bank" in " ".join(done.stderr.split())
    found = json.loads(done.stdout)["after"]["contexts"]
    assert [row["prompt"] for row in found] == [prompt for prompt, _ in rows]
    assert [row["accepted"] for row in found] == [8, 8, 0]
