import json

import pytest
import torch

from attunement import processes
from attunement.core import AttunementError

TOGETHER = """
import json, torch
torch.set_num_threads(1)
from attunement import processes

processes.join()
found = {"rank": processes.rank(), "count": processes.count(), "main": processes.is_main()}
for total in (0, 1, 5):
    rows = torch.arange(2.0 * total, dtype=torch.float64).reshape(total, 2)
    own = processes.own_rows(total)
    found[f"own {total}"] = own.tolist()
    found[f"all {total}"] = processes.gather_rows(rows[own], total).tolist()
mask = torch.tensor([True, False, True])
found["mask"] = processes.gather_rows(mask[processes.own_rows(3)], 3).tolist()
number = torch.tensor([1.5 + processes.rank()])
processes.sum_over_processes([number])
found["sum"] = number.tolist()
number = torch.tensor([7.0 + processes.rank()])
processes.make_common([number])
found["common"] = number.tolist()
with processes.alone():
    found["alone"] = processes.own_rows(3).tolist()
    if processes.is_main():  # the other doesn't take part
        found["kept"] = processes.gather_rows(torch.ones(3), 3).tolist()
found["shared again"] = processes.is_shared()
processes.wait()
processes.leave()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def together(launch) -> list[dict]:
    return [json.loads(out) for out in launch("-c", TOGETHER)]


def test_every_process_knows_its_place(together):
    assert [found["rank"] for found in together] == [0, 1]
    assert [found["main"] for found in together] == [True, False]
    assert all(found["count"] == 2 and found["shared again"] for found in together)


@pytest.mark.parametrize("total", [0, 1, 5])
def test_rows_are_shared_out_and_come_back_in_order(together, total):
    own = [found[f"own {total}"] for found in together]
    assert sorted(own[0] + own[1]) == list(range(total))
    assert abs(len(own[0]) - len(own[1])) <= 1
    for found in together:
        assert found[f"all {total}"] == [[2.0 * row, 2.0 * row + 1] for row in range(total)]


def test_truth_values_travel(together):
    assert all(found["mask"] == [True, False, True] for found in together)


def test_sums_and_common_values(together):
    assert all(found["sum"] == [4.0] for found in together)
    assert all(found["common"] == [7.0] for found in together)


def test_alone_nothing_is_shared(together):
    assert all(found["alone"] == [0, 1, 2] for found in together)
    assert together[0]["kept"] == [1.0, 1.0, 1.0]


def test_a_single_process_has_everything():
    assert processes.count() == 1
    assert processes.is_main()
    assert not processes.is_shared()
    assert processes.own_rows(3).tolist() == [0, 1, 2]
    rows = torch.arange(3)
    assert processes.gather_rows(rows, 3) is rows
    processes.sum_over_processes([rows])
    processes.wait()
    assert rows.tolist() == [0, 1, 2]


def test_fsdp_is_asked_for_by_a_setting(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(AttunementError, match="--fully-shard"):
        processes.join()
