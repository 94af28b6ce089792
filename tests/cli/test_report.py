import json
import re
import shutil

import pytest

from attunement.distributions.tiny import tiny_python_path

TEMPLATE = "{% for m in messages %}# {{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.fixture
def chat_folder(tmp_path):
    """The embedded model with a chat template."""
    folder = shutil.copytree(tiny_python_path(), tmp_path / "chat")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"chat_template": TEMPLATE})
    )
    return folder


def test_report_compares_runs(attune, run, tmp_path):
    page, other = tmp_path / "compare.html", tmp_path / "other"
    shutil.copytree(run, other)
    done = attune("report", str(run), str(other), "--output", str(page))
    assert done.returncode == 0, done.stderr
    assert page.is_file()
    assert "is given twice" in attune("report", str(run), str(run), "--output", str(page)).stderr


def test_samples_are_shown_and_logged_with_their_conversations(
    attune, small, chat_folder, tmp_path
):
    prompts, run = tmp_path / "prompts.jsonl", tmp_path / "run"
    conversations = [
        [{"role": "user", "content": f"<b>{name}</b>"}, {"role": "assistant", "content": "So?"}]
        for name in ("area", "load")
    ]
    prompts.write_text("".join(json.dumps({"prompt": turns}) + "\n" for turns in conversations))
    done = attune(
        "tune", *small, "--base", str(chat_folder), "--prompts", str(prompts), "--max-steps=1",
        "--constrain=regex:.", "--samples-per-context=4", "--output-dir", str(run),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert {row["when"] for row in rows} == {"before", "after", "target"}
    assert all(row["prompt"] == conversations[row["context"]] for row in rows)
    page = (run / "report.html").read_text()
    assert "<b>area</b>" not in page
    shown = re.findall(r"<pre>\n&lt;b&gt;(area|load)&lt;/b&gt;</pre>", page)
    assert (shown.count("area"), shown.count("load")) == (36, 36)
    assert len(re.findall('<span class="role">assistant</span>', page)) == 72
