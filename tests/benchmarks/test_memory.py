import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def memory() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("memory_of_a_step", FOLDER / "memory.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["memory_of_a_step"] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def test_what_tensors_share_counts_once(memory):
    tensor = torch.zeros(10)
    assert memory.held([tensor]) == 40
    assert memory.held([tensor, tensor[:5], tensor.detach(), torch.zeros(3)]) == 52


def test_copies_take_six_times_the_model_and_an_adapter_once(memory):
    adapter, copies = (memory.footprint("tiny-python", form) for form in memory.FORMS)
    model = 4 * adapter.parameters
    assert memory.tensors(copies) == pytest.approx(6 * model, rel=0.01)
    assert memory.tensors(adapter) == pytest.approx(model + 5 * adapter.gradients, rel=0.01)
    assert adapter.gradients < model / 10
