import pytest
import torch

from attunement.distributions.caching import reserved_cache


@pytest.mark.parametrize("limit", [9, 40])
def test_the_reserved_cache_gives_the_logits_of_a_plain_pass(model, limit):
    tokens = torch.randint(1, 257, (3, 9), generator=torch.Generator().manual_seed(0))
    cache = reserved_cache(model.config, limit)
    order = torch.tensor([2, 0, 0, 1])
    with torch.no_grad():
        expected = model(input_ids=tokens).logits[order]
        first = model(input_ids=tokens[:, :4], past_key_values=cache, use_cache=True).logits
        cache.batch_select_indices(order)
        steps = [
            model(input_ids=tokens[order][:, [place]], past_key_values=cache, use_cache=True).logits
            for place in range(4, 9)
        ]
    torch.testing.assert_close(torch.cat([first[order], *steps], 1), expected, atol=1e-4, rtol=0)
