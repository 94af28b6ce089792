from attunement import doctor
from attunement.doctor import examine


def test_it_says_what_this_machine_can_do():
    rows = examine()
    for name in ("torch", "cores", "threads", "device", "sandbox", "extra dev"):
        assert rows[name], name
    for dtype in ("float32", "bfloat16"):
        assert "tokens/s" in rows[f"tiny-python {dtype}"]
    assert all("\n" not in entry for entry in rows.values())


def test_a_missing_program_comes_with_its_mend(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "apt-get install bubblewrap" in doctor._sandbox()


def test_spinning_threads_are_pointed_out(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert "spin" in doctor._wait_policy()
