import re
import shutil
import subprocess
from html.parser import HTMLParser
from unittest.mock import MagicMock

import pytest
from markupsafe import Markup

from attunement.core import AttunementError, Estimate
from attunement.measuring import MeasuredOn
from attunement.recipes import TargetSettings
from attunement.report import figures, write_report
from attunement.report.specimens import MOST_CHARACTERS, MOST_EVALUATIONS, MOST_SAMPLES

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }} & \" ' \x1b[31m"
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Outline(HTMLParser):
    """Tags that balance, attributes that could fetch, identifiers, and text by tag."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetches: list[str] = []
        self.identifiers: list[str] = []
        self.handlers: list[str] = []
        self.links: list[str] = []
        self.labels: list[str] = []
        self.text: dict[str, list[str]] = {}

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.identifiers.append(value)
            if name in ("src", "srcset", "poster", "data", "action"):
                self.fetches.append(value)
            if name in ("href", "xlink:href"):
                self.links.append(value)
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "aria-label" and tag == "svg":
                self.labels.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)


def outline(text):
    parser = Outline()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def report(runs, folder):
    path = folder / "report.html"
    write_report(runs, path)
    return path.read_text(encoding="utf-8")


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are left empty, for tests of the text around them."""
    monkeypatch.setattr(figures, "new_axes", lambda *_: (None, MagicMock()))
    monkeypatch.setattr(figures, "to_markup", lambda *_: Markup("<svg></svg>"))


@pytest.fixture
def every_kind(write_run):
    target = TargetSettings(
        constrain=("compiles",),
        floor=0.01,
        match={"uses_name:self": 0.5},
        tilt={"length": -1.5},
        beta=10,
    )
    return write_run("mixed", target, lambdas={"uses_name:self": 1.234})


def test_page_is_well_formed_and_needs_nothing_from_outside(write_run, tmp_path):
    text = report([write_run()], tmp_path)
    page = outline(text)
    assert page.fetches == []
    assert page.handlers == []
    assert {"script", "link", "iframe", "object", "embed"}.isdisjoint(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert len(set(page.identifiers)) == len(page.identifiers)
    assert {link[1:] for link in page.links} <= set(page.identifiers)
    assert len(text) < 1_000_000


@pytest.mark.usefixtures("undrawn")
def test_each_factor_of_a_composed_target_is_a_row(every_kind, tmp_path):
    text = report([every_kind], tmp_path)
    assert "Factors of the target, in nats per completion" in text
    for words in ("constraint, floor 0.01", "match, mean 0.500, λ = 1.234", "β = 10"):
        assert words in text
    assert "forbids by itself, of the base" in text


@pytest.mark.usefixtures("undrawn")
def test_samples_are_escaped(write_run, tmp_path):
    run = write_run()
    for when in ("before", "after", "target", "during"):
        run.append(
            "samples.jsonl",
            {
                "when": when,
                "step": 10,
                "context": 0,
                "text": HOSTILE,
                "finished": False,
                "allowed": False,
                "log_base": -1.0,
                "log_policy": -1.0,
                "features": {"<em>": None},
            },
        )
    text = report([run], tmp_path)
    page = outline(text)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "em" not in page.tags
    assert "\x1b" not in text
    assert any("<script>alert(1)</script>" in data for data in page.text["pre"])
    assert any("{{ 7*7 }}" in data for data in page.text["pre"])


HOSTILE_PROMPTS = [
    HOSTILE,
    [{"role": "user", "content": HOSTILE}],
    [{"role": HOSTILE, "content": "hello"}, {"role": "user", "content": "hello"}],
]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("prompt", HOSTILE_PROMPTS, ids=["text", "content", "role"])
def test_prompts_are_escaped(write_run, append_sample, tmp_path, prompt):
    run = write_run(prompts="contexts.jsonl")
    for when in ("before", "after", "target", "during"):
        append_sample(run, "plain", when, prompt=prompt)
    text = report([run], tmp_path)
    page = outline(text)
    assert {"script", "img"}.isdisjoint(page.tags)
    assert page.handlers == []
    assert "\x1b" not in text
    seen = [*page.text["pre"], *page.text["span"]]
    assert sum("<script>alert(1)</script>" in data and "{{ 7*7 }}" in data for data in seen) == 4


@pytest.mark.usefixtures("undrawn")
def test_a_sample_stands_below_its_prompt_and_apart_from_it(write_run, append_sample, tmp_path):
    run = write_run(prompts="contexts.jsonl")
    append_sample(run, "COMPLETION", prompt="PROMPT &")
    messages = [{"role": "system", "content": "BE"}, {"role": "user", "content": "ASK"}]
    append_sample(run, "ANSWER", prompt=messages)
    text = report([run], tmp_path)
    outline(text)
    blocks = re.findall(r'<div class="prompt">(.*?)</div>(.*?)<p>', text, re.DOTALL)
    plain = [tuple(re.sub(r"\s*<[^>]+>\s*", "|", part) for part in block) for block in blocks]
    assert ("|prompt||PROMPT &amp;|", "|completion||COMPLETION|") in plain
    assert ("|system||BE||user||ASK|", "|completion||ANSWER|") in plain


@pytest.mark.usefixtures("undrawn")
def test_a_run_without_prompts_shows_none(write_run, append_sample, tmp_path):
    run = write_run()
    append_sample(run, "COMPLETION")
    assert 'class="prompt"' not in report([run], tmp_path)


@pytest.mark.usefixtures("undrawn")
def test_a_lone_surrogate_in_a_sample_does_no_harm(write_run, tmp_path):
    run = write_run()
    with (run.folder / "samples.jsonl").open("a") as file:
        file.write(
            '{"when": "after", "step": 1, "text": "x\\ud800y", "finished": true, '
            '"allowed": true, "log_base": -1.0, "log_policy": -1.0, "features": {}}\n'
        )
    assert "x?y" in report([run], tmp_path)


def test_names_from_outside_are_escaped_everywhere(write_run, tmp_path):
    name = 'x.py:<em>"$_{'
    run = write_run("a & <em>", TargetSettings(constrain=(name,)))
    page = outline(report([run, write_run("_second $x$")], tmp_path))
    assert "em" not in page.tags
    assert name in page.text["th"]
    assert any(name in data for data in page.text["li"])
    assert any("a & <em>" in data for data in page.text["h1"])


def test_every_estimate_and_every_curve_of_training_is_drawn(write_run, tmp_path):
    page = outline(report([write_run()], tmp_path))
    for name in (
        "compiles",
        "forward_kl",
        "jensen_shannon",
        "total_variation",
        "kl_policy_base",
        "log_z",
    ):
        assert any(label.startswith(f"{name} with its 95 % band") for label in page.labels)
    for name in ("gradient norm", "learning rate", "samples that the target allows"):
        assert any(label.startswith(name) for label in page.labels)
    assert any("Histogram" in label and "k̂" in label for label in page.labels)
    assert any("KL(π‖a)" in label for label in page.labels)
    assert len(page.labels) == len(set(page.labels)) == page.tags.count("svg")


@pytest.mark.usefixtures("undrawn")
def test_every_factor_is_visible(every_kind, tmp_path):
    text = report([every_kind], tmp_path)
    assert "floor 0.01" in text
    assert "1.234 · uses_name:self(x)" in text
    assert "−1.5 · length(x) / 10" in text
    assert "log a(x)" in text


@pytest.mark.usefixtures("undrawn")
def test_both_tables_and_the_length_limit_stand_beside_rates(write_run, tmp_path):
    text = report([write_run()], tmp_path)
    for formula in (
        "KL(p‖π)",
        "KL(π‖p)",
        "KL(π(·|P&gt;0)‖p)",
        "JS(π, p)",
        "TV(π, p)",
        "KL(π‖a)",
        "log Z",
        "distinct-1",
        "distinct-2",
        "self-BLEU",
    ):
        assert formula in text
    assert "[0.186, 0.234]" in text
    assert "−log Z, its value at π = p" in text
    assert text.count("max_new_tokens 64") > 5


@pytest.mark.usefixtures("undrawn")
def test_infinite_and_absent_figures_are_said(write_run, edit, tmp_path):
    run = write_run()

    def worsen(content):
        content["after"]["divergences"]["forward_kl"] |= {"khat": 0.93}
        content["after"]["log_z"] |= {"ess": 3.5}
        content["after"]["target"]["compiles"] |= dict.fromkeys(
            ("value", "stderr", "low", "high", "khat")
        )
        content["log_weights"] = {"values": [], "khat": 0.81}

    edit(run.folder / "measurement.json", worsen)
    run.append(
        "metrics.jsonl",
        {
            "step": 41,
            "estimates": {
                "forward_kl": Estimate(
                    float("inf"), None, float("inf"), float("inf"), 9, 9.0
                ).to_json(),
            },
        },
    )
    text = report([run], tmp_path)
    outline(text)
    assert "∞" in text
    assert "n/a" in text
    assert "reverse_kl is infinite" in text
    assert "k̂ = 0.93" in text
    assert "k̂ = 0.81" in text
    assert "rests on 3.5 effective samples" in text
    assert "infinite or not estimated at step 41" in text


def test_same_runs_give_the_same_bytes(write_run, tmp_path):
    runs = [write_run("first"), write_run("second", seed=3)]
    assert report(runs, tmp_path) == report(runs, tmp_path)


def test_runs_are_compared(write_run, every_kind, tmp_path):
    text = report([write_run("first"), every_kind, write_run("third", finished=False)], tmp_path)
    page = outline(text)
    assert "Runs compared: first, mixed, third" in text
    assert "The runs have different targets" in text
    assert "Not finished: third" in text
    assert "Not on the plane (not finished, or without this feature): third" in text
    assert "var(--series-3)" in text
    for name in ("uses_name:self", "length"):
        assert any(label.startswith(f"{name} with its") for label in page.labels)
    assert text.count('<th scope="col">first</th>') == 1


def test_an_unfinished_run_is_shown_as_far_as_it_is(write_run, tmp_path):
    run = write_run(finished=False)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "gradient_n')
    text = report([run], tmp_path)
    outline(text)
    assert "This run is not finished: 20 of 40 steps" in text
    assert "forward_kl with its 95 % band" in text
    assert 'id="weights"' not in text


def test_long_runs_stay_small(write_run, append_sample, tmp_path):
    run = write_run(steps=3000)
    for _ in range(200):
        append_sample(run, "x = 1\n" * 1000)
    for step in range(100):
        run.append(
            "samples.jsonl",
            {
                "when": "during",
                "step": step,
                "text": "y" * 2 * MOST_CHARACTERS,
                "finished": True,
                "allowed": True,
                "log_base": -1.0,
                "log_policy": -1.0,
                "features": {"compiles": 1.0},
            },
        )
    text = report([run], tmp_path)
    assert len(text) < 2_000_000
    assert f"{206 - MOST_SAMPLES} more in samples.jsonl" in text
    assert len(re.findall(r"<h3>Step \d+</h3>", text)) == MOST_EVALUATIONS
    assert f"{MOST_CHARACTERS} more characters" in text


def test_the_old_report_stays_until_the_new_one_is_whole(write_run, tmp_path):
    run = write_run()
    path = tmp_path / "report.html"
    path.write_text("old")
    (run.folder / "metrics.jsonl").write_text("{\n")
    with pytest.raises(AttunementError):
        write_report([run], path)
    assert path.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["compiles", "report.html"]


@pytest.mark.usefixtures("undrawn")
def test_a_folder_that_cannot_be_written_to_is_an_error(write_run, tmp_path):
    with pytest.raises(AttunementError, match=r"absent.*can't be written"):
        write_report([write_run()], tmp_path / "absent" / "report.html")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to render the page with")
def test_a_browser_renders_the_page_without_complaint(write_run, append_sample, tmp_path):
    run = write_run()
    append_sample(run, HOSTILE)
    report([run], tmp_path)
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--enable-logging=stderr",
            "--dump-dom",
            f"--user-data-dir={tmp_path / 'profile'}",
            (tmp_path / "report.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    for heading in (
        "What was asked",
        "Before and after",
        "The plane",
        "Curves",
        "Weights",
        "Samples",
        "Run it again",
    ):
        assert re.search(rf"<h2>{heading}", done.stdout)
    assert "<script" not in done.stdout


def test_held_out_figures_are_said_to_be_held_out(write_run, tmp_path):
    path = tmp_path / "page.html"
    write_report([write_run(measured_on=MeasuredOn.HELD_OUT)], path)
    page = path.read_text()
    assert "fresh samples on held-out contexts" in page
    assert "The same on the contexts of tuning" in page
    write_report([write_run("plain")], path)
    assert "The same on the contexts of tuning" not in path.read_text()
