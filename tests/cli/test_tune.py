import json
import os
import shutil
import signal
import time
from pathlib import Path

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


def test_a_recipe_runs_again_where_a_list_of_its_scorer_has_gone(attune, small, tmp_path):
    (tmp_path / "words.txt").write_text("self\n")
    tilt = f"--tilt=lexicon:{tmp_path}/words.txt=1"
    folders = tmp_path / "first", tmp_path / "again"
    options = [*small, "--max-steps=1", "--output-dir"]
    assert attune("tune", tilt, "--beta=1", *options, str(folders[0])).returncode == 0
    (tmp_path / "words.txt").unlink()
    recipe = str(folders[0] / "recipe.json")
    done = attune("tune", "--recipe", recipe, "--output-dir", str(folders[1]))
    assert done.returncode == 0, done.stderr
    first, second = (load_file(folder / "policy/model.safetensors") for folder in folders)
    assert all((first[name] == second[name]).all() for name in first)


@pytest.mark.parametrize(
    ("form", "delivered"),
    [([], "model.safetensors"), (["--lora-rank=2"], "adapter_model.safetensors")],
)
def test_kill_9_and_resume_give_the_same_weights(attune, start, job, tmp_path, form, delivered):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = [*job, *form, "--max-steps=8", "--output-dir"]
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
    for name in ("checkpoints/step-8/policy.safetensors", f"policy/{delivered}"):
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
        (["--constrain", "compiles", "--match", "compiles=0.5"], 2, "constrained to be 1"),
        (["--match", "length=9", "--match-each", "length=9"], 2, "in match and in match_each"),
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
        (["--constrain", "compiles", "--lora-rank", "0"], 2, "--lora-rank"),
        (["--constrain", "compiles", "--lora-rank", "2", "--fully-shard"], 2, "can't be sharded"),
        (["--constrain", "compiles", "--lora-alpha", "8"], 2, "no use without --lora-rank"),
        (["--constrain", "compiles", "--lora-rank", "2", "--policy", "x"], 2, "leave out --policy"),
        (
            ["--constrain", "compiles", "--lora-rank", "2", "--lora-target-modules", "q_proj"],
            1,
            "c_attn, c_fc, c_proj",
        ),
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


def test_the_same_commands_with_a_model_that_has_an_encoder(attune, small, t5_folder, tmp_path):
    prompts, run = tmp_path / "prompts.jsonl", tmp_path / "run"
    prompts.write_text('{"prompt": "abc"}\n{"prompt": "ddddeeee"}\n{"prompt": ""}\n')
    done = attune(
        "tune", *small, "--base", str(t5_folder), "--prompts", str(prompts), "--max-steps=2",
        "--constrain=contains:d", "--samples-per-context=8", "--output-dir", str(run),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = attune("sample", str(run), "--prompt", "abc", "-n", "3", "--json")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    done = attune("measure", str(run), "-n", "64", "--json")
    assert done.returncode == 0, done.stderr
    done = attune(
        "measure", str(run / "policy"), "--base", str(t5_folder), "--prompts", str(prompts),
        "--constrain=contains:d", "--max-new-tokens=12", "-n", "64",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "forward_kl" in done.stdout
    done = attune("tune", *small, "--policy", str(run), "--constrain=contains:d",
                  "--output-dir", str(tmp_path / "other"))  # fmt: skip
    assert done.returncode == 1
    assert "one of them has an encoder" in done.stderr


def steps_of(run: Path) -> list[list[float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [[r["satisfied"], r["loss"], r["gradient_norm"]] for r in rows if "loss" in r]


@pytest.fixture(scope="module")
def shared_job(job) -> list[str]:
    """A job whose micro-batches can't be shared out evenly.

    It draws from the base: a policy that differs by rounding may now and then draw another token.
    """
    few = ("--batch-size=15", "--micro-batch-size=4", "--max-steps=3", "--proposal=base")
    return ["tune", *job, *few]


@pytest.fixture(scope="module")
def single(attune, shared_job, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("single") / "run"
    assert attune(*shared_job, f"--output-dir={folder}").returncode == 0
    return folder


@pytest.mark.parametrize("options", [[], ["--fully-shard"]], ids=["repeated", "sharded"])
def test_two_processes_make_the_same_run(launch, attune, shared_job, single, tmp_path, options):
    """The same samples, losses and gradients; one report; the policy loads as ever."""
    folder = tmp_path / "two"
    out = launch("-m", "attunement.cli", *shared_job, *options, f"--output-dir={folder}")
    assert "report:" in out[0]
    assert out[1] == ""
    for found, expected in zip(steps_of(folder), steps_of(single), strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert (folder / "policy/README.md").is_file()
    assert not list(folder.glob(".*"))
    done = attune("sample", str(folder), "-n", "2", "--json")
    assert len(done.stdout.splitlines()) == 2


def test_a_run_of_two_processes_goes_on_in_one(launch, attune, shared_job, single, tmp_path):
    folder = tmp_path / "two"
    launch("-m", "attunement.cli", *shared_job, f"--output-dir={folder}")
    for later in ("checkpoints/step-3", "policy"):
        shutil.rmtree(folder / later)
    (folder / "measurement.json").unlink()
    assert attune("tune", "--resume", f"--output-dir={folder}").returncode == 0
    for found, expected in zip(steps_of(folder), steps_of(single), strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_one_process_has_nothing_to_shard_among(attune, job, tmp_path):
    done = attune("tune", *job, "--fully-shard", f"--output-dir={tmp_path / 'one'}")
    assert done.returncode == 1
    assert "torchrun" in done.stderr
    assert not (tmp_path / "one").exists()
