"""Offline, one thread a worker, and no progress of others in the output."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch

torch.set_num_threads(1)


def _launch(*arguments: str, count: int = 2) -> list[str]:
    """Run Python with these arguments in several processes that know of each other.

    Returns:
        What each wrote on standard output.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", *arguments],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        done = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    errors = "\n".join(error for _, error in done)
    assert all(process.returncode == 0 for process in started), errors
    return [out for out, _ in done]


@pytest.fixture(scope="session")
def launch() -> Callable[..., list[str]]:
    """Several processes as a launcher starts them, on gloo."""
    return _launch
