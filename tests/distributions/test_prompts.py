import pytest

from attunement.core import AttunementError, Context, Outcomes, Stop
from attunement.distributions.prompts import (
    check_lengths,
    context_limit,
    distinct_rows,
    tokenize_contexts,
)

TEMPLATE = (
    "<end>{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def test_the_start_token_comes_once(byte_tokenizer):
    contexts = [Context(), Context("ab"), Context("<end>ab")]
    empty, plain, begun = tokenize_contexts(byte_tokenizer, contexts, start=0)
    assert empty == (0,)
    assert plain == begun
    assert plain[0] == 0
    assert byte_tokenizer.decode(list(plain[1:])) == "ab"


def test_special_tokens_of_the_tokenizer_are_left_out(byte_tokenizer):
    byte_tokenizer.bos_token = "<end>"
    byte_tokenizer.add_bos_token = True
    assert tokenize_contexts(byte_tokenizer, [Context("a")], start=0)[0].count(0) == 1


def test_conversations_are_rendered_by_the_chat_template(byte_tokenizer):
    byte_tokenizer.chat_template = TEMPLATE
    turn = {"role": "user", "content": "hi"}
    (ids,) = tokenize_contexts(byte_tokenizer, [Context((turn,))], start=5)
    assert ids[0] == 0
    assert byte_tokenizer.decode(list(ids[1:])) == "user:hi\nassistant:"


def test_a_conversation_without_a_template_is_an_error(byte_tokenizer):
    contexts = [Context("fine"), Context(({"role": "user", "content": "hi"},))]
    with pytest.raises(AttunementError, match=r"context 1 is a conversation"):
        tokenize_contexts(byte_tokenizer, contexts, start=0)


def test_an_empty_context_without_start_is_an_error(byte_tokenizer):
    with pytest.raises(AttunementError, match="context 0 is empty"):
        tokenize_contexts(byte_tokenizer, [Context()], start=None)


def test_a_prompt_has_to_leave_room(model):
    limit = context_limit(model.config)
    assert limit == 64
    outcomes = Outcomes(0, Stop(0), 60)
    check_lengths([(1,) * 5], outcomes, limit)
    with pytest.raises(AttunementError, match=r"prompt 1 has 6 tokens.*=60 .* 64"):
        check_lengths([(1,) * 5, (1,) * 6], outcomes, limit)
    check_lengths([(1,) * 6], outcomes, None)


def test_different_rows_come_once_and_can_be_repeated():
    rows = [(3, 1), (2,), (3, 1), (4,), (2,)]
    different, numbers = distinct_rows(rows)
    assert different == [(3, 1), (2,), (4,)]
    assert [different[number] for number in numbers.tolist()] == rows
