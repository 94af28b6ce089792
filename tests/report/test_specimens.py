import pytest
from hypothesis import given
from hypothesis import strategies as st

from attunement.report.reading import read_run
from attunement.report.specimens import (
    MOST_EVALUATIONS,
    MOST_OF_A_TURN,
    MOST_SAMPLES,
    Turn,
    columns,
    during,
    turn,
)


@pytest.fixture
def shown(write_run, append_sample):
    """A function from a prompt to how it is shown, in a run with prompts."""

    def show(prompt, **further):
        run = write_run(prompts="contexts.jsonl", finished=False)
        for _ in range(MOST_SAMPLES):
            append_sample(run, "text", "before", prompt=prompt, **further)
        return columns(read_run(run))[0].specimens[-1]

    return show


def test_a_prompt_is_one_turn(shown):
    assert shown("def f(").prompt == (Turn("prompt", "def f("),)


def test_an_empty_prompt_is_said_to_be_empty(shown):
    assert shown("").prompt == (Turn("prompt", "(empty)"),)


def test_a_conversation_is_a_turn_for_each_message(shown):
    messages = [{"role": "system", "content": "Be\x07 kind."}, {"role": "user", "content": "Hi"}]
    assert shown(messages).prompt == (Turn("system", "Be\u2407 kind."), Turn("user", "Hi"))


def test_a_log_that_does_not_say_prompts_shows_none(shown):
    assert shown(None).prompt == ()


@given(st.text(st.characters(categories=["L", "N"]), max_size=3 * MOST_OF_A_TURN))
def test_of_a_long_turn_both_ends_are_shown_and_the_rest_is_counted(text):
    found = turn("user", text)
    assert len(found.beginning) + len(found.end) <= MOST_OF_A_TURN + len("(empty)")
    if found.left_out:
        assert text.startswith(found.beginning)
        assert text.endswith(found.end)
        assert len(found.beginning) + found.left_out + len(found.end) == len(text)
    else:
        assert (found.beginning, found.end) == (text or "(empty)", "")


def test_samples_stand_by_their_source_and_the_rest_is_counted(write_run, append_sample):
    run = write_run()
    for _ in range(MOST_SAMPLES):
        append_sample(run, "x")
    found = columns(read_run(run))
    assert [column.heading.split()[0] for column in found] == ["Before:", "After:", "Exact"]
    assert [len(column.specimens) for column in found] == [6, MOST_SAMPLES, 6]
    assert [column.left_out for column in found] == [0, 6, 0]


def test_all_contexts_are_shown_where_not_all_samples_are(write_run, append_sample):
    run = write_run(prompts="contexts.jsonl", finished=False)
    for number in range(1, 5):
        for index in range(10):
            append_sample(run, f"{number} {index}", context=number)
    after = columns(read_run(run))[1]
    counts = {1: 5, 2: 5, 3: 5, 4: 4}
    expected = [f"{number} {index}" for number, count in counts.items() for index in range(count)]
    assert [specimen.text for specimen in after.specimens][-19:] == expected
    assert len(after.specimens) == MOST_SAMPLES


def test_of_many_evaluations_first_and_last_are_shown(write_run, append_sample):
    run = write_run()
    for step in range(100, 150):
        append_sample(run, "x", "during", step=step)
    headings = [column.heading for column in during(read_run(run))]
    assert len(headings) == MOST_EVALUATIONS
    assert (headings[0], headings[-1]) == ("Step 10", "Step 149")


@pytest.mark.parametrize(
    ("further", "mark", "word"),
    [
        ({"features": {"compiles": 1.0}}, "yes", "\u2713 yes"),
        ({"features": {"compiles": 0.0}}, "no", "\u2717 no"),
        ({"features": {"compiles": 0.0}, "allowed": False}, "no", "\u2717 forbidden"),
    ],
)
def test_a_word_says_what_the_colour_says(write_run, append_sample, further, mark, word):
    run = write_run()
    append_sample(run, "x", "target", **further)
    specimen = columns(read_run(run))[-1].specimens[-1]
    assert (specimen.mark, specimen.word) == (mark, word)
