from attunement.core import Estimate
from attunement.recipes import TargetSettings
from attunement.report.plots import estimate_plots, plane, swatches, training_plots, weights
from attunement.report.reading import read_run, read_runs


def test_features_come_first_and_every_estimate_has_a_plot(write_run):
    runs = [write_run("a"), write_run("b", TargetSettings(match={"length": 30.0}))]
    titles = [plot.title for plot in estimate_plots(read_runs(runs))]
    assert titles == [
        "compiles",
        "length",
        "forward_kl",
        "jensen_shannon",
        "total_variation",
        "kl_policy_base",
        "log_z",
    ]


def test_a_feature_called_like_an_estimate_is_still_a_rate(write_run):
    reading = read_run(write_run("b", TargetSettings(match={"length": 30.0})))
    plot = estimate_plots([reading])[0]
    assert plot.formula == ""
    assert "max_new_tokens 64" in plot.note


def test_infinite_points_are_named(write_run):
    run = write_run()
    infinite = Estimate(float("inf"), None, float("inf"), float("inf"), 9, 9.0).to_json()
    run.append("metrics.jsonl", {"step": 50, "estimates": {"forward_kl": infinite}})
    notes = {plot.title: plot.note for plot in estimate_plots([read_run(run)])}
    assert "infinite or not estimated at step 50" in notes["forward_kl"]


def test_there_is_nothing_to_plot_before_anything_happened(write_run):
    run = write_run(finished=False)
    first = (run.folder / "metrics.jsonl").read_text().splitlines(keepends=True)[0]
    (run.folder / "metrics.jsonl").write_text(first)
    reading = read_run(run)
    assert training_plots([reading]) == ()
    assert weights([reading]) is None
    assert plane([reading]) is None


def test_a_run_without_the_feature_is_named_beside_the_plane(write_run):
    runs = [write_run("a"), write_run("b", TargetSettings(constrain=("pep8",)))]
    assert plane(read_runs(runs)).note.endswith("without this feature): b.")


def test_runs_differ_in_colour_and_dashes(write_run):
    reading = read_run(write_run())
    found = swatches([reading] * 12)
    assert len({(s.colour, s.dashes) for s in found[:8]}) == 8
    assert [s.number for s in found] == list(range(1, 13))


def test_clipped_steps_are_counted(write_run):
    notes = {plot.title: plot.note for plot in training_plots([read_run(write_run())])}
    assert "1 of 40 steps" in notes["gradient norm"]
