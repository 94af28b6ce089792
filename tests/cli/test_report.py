import shutil


def test_report_compares_runs(attune, run, tmp_path):
    page, other = tmp_path / "compare.html", tmp_path / "other"
    shutil.copytree(run, other)
    done = attune("report", str(run), str(other), "--output", str(page))
    assert done.returncode == 0, done.stderr
    assert page.is_file()
    assert "is given twice" in attune("report", str(run), str(run), "--output", str(page)).stderr
