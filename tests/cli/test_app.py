import errno
import os
import signal
import subprocess
import sys
import time

from attunement.runs import Run


def test_ctrl_c_is_one_sentence(start, job, tmp_path):
    arguments = [*job, "--max-steps=500", "--output-dir", str(tmp_path / "run")]
    process = start("tune", *arguments)
    while not (tmp_path / "run/checkpoints/step-1/counters.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 1
    assert "interrupted" in error
    assert "--resume" in error
    assert "Traceback" not in error


def test_help_is_quick_to_import():
    code = "import sys, attunement.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_full_disk_is_one_sentence(attune, job, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.jsonl")

    monkeypatch.setattr(Run, "append", full)
    done = attune("tune", *job, "--max-steps=2", "--output-dir", str(tmp_path / "run"))
    assert done.returncode == 1
    assert "No space left on device (metrics.jsonl)" in done.stderr
