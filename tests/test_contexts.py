import json
import sys

import pytest

from attunement.contexts import (
    TINY_PYTHON_SIGNATURES,
    duplicates,
    read_contexts,
    require_held_out,
    signatures,
    write_contexts,
)
from attunement.core import AttunementError, Context, MissingExtraError
from attunement.distributions.causal import Causal


@pytest.fixture
def table(tmp_path):
    """A CSV file with a column of texts, read through a cache of its own."""
    path = tmp_path / "table.csv"
    path.write_text("question,n\n" + "".join(f"text {n},{n}\n" for n in range(9)))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_text_file_has_a_prompt_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xef\xbb\xbfdef f(\r\n\n  x = {\n")
    assert read_contexts(path) == (Context("def f("), Context("  x = {"))
    with pytest.raises(AttunementError, match="has no columns: leave out --prompt-column"):
        read_contexts(path, "text")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no prompt: it is empty"),
        ("\n \n", "holds no prompt: it is empty"),
        ('{"prompt": "a"}\n{"prompt"', "line 2 is not JSON"),
        ('{"prompt": "a"}\n\n[1]', "line 3 is not a JSON object"),
        ('{"text": "a", "n": 1}', "line 1 has no column 'prompt': .* there is text, n"),
        ('{"prompt": 3}', "line 1: a prompt is a text or a list of messages"),
        ('{"prompt": []}', "line 1: a prompt is a text or a list of messages"),
        ('{"prompt": ["a"]}', "each with the texts 'role' and 'content'"),
        ('{"prompt": [{"role": "user"}]}', "each with the texts 'role' and 'content'"),
    ],
)
def test_faulty_prompts_are_named(tmp_path, text, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(AttunementError, match=message) as caught:
        read_contexts(path)
    assert "prompts.jsonl" in str(caught.value)


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.txt", "missing.csv", "/no/folder"])
def test_a_path_that_is_not_there_is_named(name):
    with pytest.raises(AttunementError, match=r"can't be read: there is no such file or folder"):
        read_contexts(name)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"\xe4")
    with pytest.raises(AttunementError, match=r"latin.txt can't be read"):
        read_contexts(str(tmp_path / "latin.txt"))


def test_another_column_can_hold_the_prompts(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "a", "prompt": "left out", "n": [1]}) + "\n")
    assert read_contexts(path, "text") == (Context("a", {"n": [1]}),)


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_table_is_read_through_datasets(table, as_folder):
    found = read_contexts(table.parent if as_folder else table, "question")
    assert found == tuple(Context(f"text {n}", {"n": n}) for n in range(9))


def test_a_table_says_what_it_has(table):
    with pytest.raises(AttunementError, match=r"no column 'prompt': .* there is question, n"):
        read_contexts(table)
    with pytest.raises(AttunementError, match=r"table.csv can't be read: .*\['train'\]"):
        read_contexts(f"{table}:validation", "question")


def test_a_column_that_is_no_json_is_named(tmp_path):
    import datasets

    rows = {"prompt": ["a"], "picture": [b"\x00"]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(AttunementError, match=r"row 0: column 'picture' holds a bytes"):
        read_contexts(tmp_path / "rows.parquet")


def test_a_data_set_that_cannot_be_reached_names_what_there_is_here(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(AttunementError, match=f"or give a JSONL.*{TINY_PYTHON_SIGNATURES}"):
        read_contexts("nobody/no-such-data-set:test")


def test_a_data_set_is_read_by_its_configuration(tmp_path):
    """As `cnn_dailymail:3.0.0:train` is; a folder has configurations in its card."""
    for name in ("first", "second"):
        (tmp_path / f"{name}.csv").write_text(f"prompt\n{name}\n")
    entries = [f"- {{config_name: {n}, data_files: {n}.csv}}" for n in ("first", "second")]
    card = "\n".join(["---", "configs:", *entries, "---", ""])
    (tmp_path / "README.md").write_text(card)
    for name in ("first", "second"):
        (context,) = read_contexts(f"{tmp_path}:{name}:train")
        assert context.prompt == name
    with pytest.raises(AttunementError, match=r"can't be read.*second"):
        read_contexts(f"{tmp_path}:third:train")


def test_files_have_no_configurations(table, tmp_path):
    (tmp_path / "prompts.txt").write_text("a\n")
    for source in (table, tmp_path / "prompts.txt", TINY_PYTHON_SIGNATURES):
        with pytest.raises(AttunementError, match="no configurations: leave out ':some'"):
            read_contexts(f"{source}:some:train")


def test_without_datasets_the_extra_is_named(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"attunement\[datasets\]"):
        read_contexts(table)


def test_a_subset_is_a_function_of_the_seed(table):
    whole = read_contexts(table, "question")
    subsets = [read_contexts(table, "question", 4, seed) for seed in (0, 0, 1, 2)]
    assert subsets[0] == subsets[1]
    assert len(set(map(str, subsets))) == 3
    for subset in subsets:
        places = [whole.index(context) for context in subset]
        assert len(places) == 4
        assert places == sorted(places)
    assert read_contexts(table, "question", 99) == whole
    with pytest.raises(AttunementError, match="at least one prompt"):
        read_contexts(table, "question", 0)


def test_duplicates_are_those_of_prompt_and_columns():
    chat = ({"role": "user", "content": "a"},)
    contexts = [Context("a"), Context("a"), Context("a", {"n": 1}), Context(chat), Context(chat)]
    assert duplicates(contexts) == 2


def test_what_is_written_is_read_back(tmp_path):
    contexts = (Context("a\u2028ä", {"n": None}), Context(({"role": "user", "content": "b"},)))
    write_contexts(tmp_path / "contexts.jsonl", contexts)
    assert read_contexts(tmp_path / "contexts.jsonl") == contexts


def test_the_shipped_signatures_fit_the_embedded_model():
    tuning, held_out = signatures(), signatures("held-out")
    assert (len(tuning), len(held_out)) == (200, 100)
    assert read_contexts(TINY_PYTHON_SIGNATURES) == tuning
    prompts = [context.prompt for context in (*tuning, *held_out)]
    assert len(set(prompts)) == 300
    files = [{context.columns["file"] for context in part} for part in (tuning, held_out)]
    assert not files[0] & files[1]
    for prompt in prompts:
        compile(f"{prompt}\n    pass\n", "<signature>", "exec")
    base = Causal.load("tiny-python")
    assert max(len(base.tokenizer.encode(prompt)) for prompt in prompts) + 64 <= 128
    with pytest.raises(AttunementError, match="no split 'test'; there is tuning, held-out"):
        signatures("test")


def test_a_prompt_is_either_tuned_on_or_held_out():
    seen, held_out = [Context("a"), Context("b", {"n": 1})], [Context("b", {"n": 2}), Context("c")]
    require_held_out(seen, held_out[1:])
    with pytest.raises(AttunementError, match=r"1 of 2 held-out prompts.*the first is 'b'"):
        require_held_out(seen, held_out)


def test_a_data_set_without_a_row_is_empty(tmp_path):
    import datasets

    datasets.Dataset.from_dict({"prompt": ["a"]}).select([]).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(AttunementError, match=r"rows.parquet can't be read: .* isn't empty"):
        read_contexts(tmp_path / "rows.parquet")
