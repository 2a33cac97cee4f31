"""Checkpoints: bit-exact, safe to open, with clear errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.fixture_types import MakeNetwork
from tritonkit.images.preprocess import ImageArray
from tritonkit.networks.network import load_network, save_network


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit"])
def test_network_answers_the_same_bits_when_read_back(
    tmp_path: Path, make_network: MakeNetwork, batch: ImageArray, architecture: str
) -> None:
    network, path = make_network(architecture), tmp_path / "net.safetensors"
    save_network(path, network)
    back = load_network(path)
    assert back.spec == network.spec
    assert not back.training
    with torch.inference_mode():
        assert torch.equal(back(torch.from_numpy(batch))[0], network(torch.from_numpy(batch))[0])
    for key, tensor in network.state_dict().items():
        assert torch.equal(back.state_dict()[key], tensor), key


def test_spec_is_read_without_torch_when_a_process_has_none(checkpoint: Path) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'timm')))\n"
        "from pathlib import Path; from tritonkit.checkpoint import read_spec, read_weights\n"
        f"path = Path({str(checkpoint)!r}); print(read_spec(path).name, len(read_weights(path)) > 10)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout) == (0, "pets True\n"), process.stderr


def test_old_checkpoint_stays_whole_when_the_disk_is_full_halfway(checkpoint: Path) -> None:
    before = checkpoint.read_bytes()
    code = (
        "import resource; from pathlib import Path; import numpy as np\n"
        "from tritonkit.checkpoint import read_spec, write_checkpoint\n"
        f"path = Path({str(checkpoint)!r}); spec = read_spec(path)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "write_checkpoint(path, spec, {'weight': np.zeros(5000)})"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "File too large" in process.stderr
    assert checkpoint.read_bytes() == before
    assert list(checkpoint.parent.iterdir()) == [checkpoint]
    assert list(checkpoint.parent.iterdir()) == [checkpoint]
