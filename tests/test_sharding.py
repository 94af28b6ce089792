import json

import pytest
import torch
from torch import nn

from attunement import sharding
from attunement.core import AttunementError

SPLIT = """
import copy, json, torch
torch.set_num_threads(1)
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from attunement import processes, sharding

processes.join()
torch.manual_seed(0)
config = GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=11, n_positions=8)
network = GPT2LMHeadModel(config).eval()
single = copy.deepcopy(network)
sharding.shard(network)
tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
blocks = [sharding.is_sharded(part) for part in network.transformer.h]
held = sum(sharding.local(p).numel() for p in network.parameters())
with torch.no_grad():
    expected = single(tokens).logits
    with sharding.whole(network):
        for _ in range(1 + processes.rank()):  # as many passes as each likes
            logits = network(tokens).logits
whole = {name: sharding.full(p.detach()) for name, p in network.named_parameters()}
parameter = network.lm_head.weight
with torch.no_grad():
    parameter.copy_(sharding.split_like(torch.full((11, 8), 2.0), parameter))
print(json.dumps({
    "sharded": sharding.is_sharded(network),
    "blocks": blocks,
    "held": held,
    "all": sum(p.numel() for p in single.parameters()),
    "logits": float((logits - expected).abs().max()),
    "whole": max(float((whole[n] - p).abs().max().detach()) for n, p in single.named_parameters()),
    "put": float(sharding.full(parameter.detach()).sum()),
}))
processes.wait()
processes.leave()
"""


@pytest.fixture(scope="module")
def split(launch) -> list[dict]:
    return [json.loads(out) for out in launch("-c", SPLIT)]


def test_every_process_holds_a_part(split):
    assert all(found["sharded"] and found["blocks"] == [True, True] for found in split)
    assert sum(found["held"] for found in split) == split[0]["all"]
    assert all(found["held"] < 0.6 * found["all"] for found in split)


def test_inside_whole_a_pass_needs_nobody(split):
    assert all(found["logits"] < 1e-6 for found in split)


def test_what_was_split_is_put_together_and_split_again(split):
    assert all(found["whole"] == 0 for found in split)
    assert all(found["put"] == 2.0 * 11 * 8 for found in split)


def test_what_is_not_split_stays_as_it_is():
    network = nn.Linear(2, 2)
    assert not sharding.is_sharded(network)
    with sharding.whole(network):
        assert network(torch.ones(2)).shape == (2,)
    assert sharding.full(network.weight) is network.weight
    assert sharding.local(network.weight) is network.weight
    other = torch.ones(2, 2)
    assert sharding.split_like(other, network.weight) is other


def test_one_process_has_nothing_to_shard_among():
    with pytest.raises(AttunementError, match="torchrun"):
        sharding.shard(nn.Linear(2, 2))
