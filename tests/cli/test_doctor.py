import json


def test_doctor_prints_one_line_an_entry(attune):
    done = attune("doctor")
    assert done.returncode == 0, done.stderr
    rows = json.loads(attune("doctor", "--json").stdout)
    assert all(isinstance(entry, str) for entry in rows.values())
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        name.split()[0] for name in rows
    ]
