"""What this machine can do: `attune doctor`.

Everything is found out by trying it, and nothing is installed or changed. The embedded model is
run, in float32 and in bfloat16, to show the speed to expect and how far log-probabilities that
were recorded while sampling differ from recomputed ones.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, metadata, requires, version

import torch
from packaging.requirements import Requirement

from attunement.core import AttunementError
from attunement.distributions.causal import Causal


def examine() -> dict[str, str]:
    """Findings by name, each one line of text."""
    rows = {
        "attunement": version("attunement"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "cores": str(len(os.sched_getaffinity(0))),
        "threads": str(torch.get_num_threads()),
        "OMP_WAIT_POLICY": _wait_policy(),
        "device": _device(),
        "sandbox": _sandbox(),
    }
    rows |= {f"extra {name}": state for name, state in _extras().items()}
    for dtype in (torch.float32, torch.bfloat16):
        rows[f"tiny-python {str(dtype).removeprefix('torch.')}"] = _try_model(dtype)
    return rows


def _wait_policy() -> str:
    policy = os.environ.get("OMP_WAIT_POLICY", "unset")
    if policy.upper() == "PASSIVE":
        return policy
    return f"{policy}: threads may spin while they wait; PASSIVE is better on a shared machine"


def _device() -> str:
    if not torch.cuda.is_available():
        return "cpu (no CUDA device)"
    name = torch.cuda.get_device_name(0)
    bfloat16 = "with" if torch.cuda.is_bf16_supported() else "without"
    return f"cuda: {torch.cuda.device_count()} × {name}, {bfloat16} bfloat16"


def _sandbox() -> str:
    """Whether bubblewrap can make the namespaces that untrusted programs will need."""
    path = shutil.which("bwrap")
    if path is None:
        return "bubblewrap is not installed (apt-get install bubblewrap)"
    command = [path, "--unshare-all", "--ro-bind", "/", "/", "true"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if result.returncode != 0:
        return f"bubblewrap can't make namespaces here: {result.stderr.strip()[:100]}"
    return "bubblewrap works"


def _extras() -> dict[str, str]:
    """Each optional extra of the package: installed, or what would install it."""
    names = metadata("attunement").get_all("Provides-Extra") or []
    found = {}
    for extra in names:
        missing = [
            requirement.name
            for requirement in map(Requirement, requires("attunement") or [])
            if requirement.marker is not None
            and requirement.marker.evaluate({"extra": extra})
            and not requirement.marker.evaluate({"extra": ""})
            and not _is_installed(requirement.name)
        ]
        found[extra] = (
            f"missing {', '.join(missing)}: pip install 'attunement[{extra}]'"
            if missing
            else "installed"
        )
    return found


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _try_model(dtype: torch.dtype) -> str:
    try:
        model = Causal.load("tiny-python", dtype=dtype)
    except AttunementError as error:
        return str(error)
    generator = torch.Generator().manual_seed(0)
    model.sample(None, 8, generator=generator)
    started = time.perf_counter()
    samples = model.sample(None, 128, generator=generator)
    speed = int(samples.mask.sum()) / (time.perf_counter() - started)
    with torch.no_grad():
        difference = (model.log_prob(samples) - samples.log_prob).abs()
    return (
        f"{speed:,.0f} tokens/s; recorded and recomputed log-probabilities differ by "
        f"{float(difference.median()):.1e} nats (median), {float(difference.max()):.1e} (largest)"
    )
