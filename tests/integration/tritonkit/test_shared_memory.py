"""Shared memory with a server: regions are borrowed, unregistered, and never prevent an answer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from tests.programs import ROOT
from tritonkit.errors import DeadlineError, InferenceError, TokenError, TritonkitError, UnreachableError
from tritonkit.images.preprocess import ImageArray
from tritonkit.triton.client import TritonClient
from tritonkit.triton.connection import Connection
from tritonkit.triton.runner import TritonRunner
from tritonkit.triton.shared_memory import FOLDER, MAX_BYTES, MIN_BYTES, PREFIX, RegionRegistry, SharedMemoryPool
from tritonkit.triton.transport import Transport

ENOUGH = MIN_BYTES


class KeptRegistry(RegionRegistry):
    """Registry in this process that checks each region's file while it registers the region."""

    def __init__(self) -> None:
        self.regions: dict[str, int] = {}
        self.failing: TritonkitError | None = None
        self.in_use: set[str] = set()
        self.calls = 0

    def register(self, region: str, size: int) -> None:
        if self.failing is not None:
            raise self.failing
        assert (FOLDER / region).stat().st_size == size
        assert (FOLDER / region).stat().st_mode & 0o077 == 0, "other users must not read the images"
        self.regions[region] = size

    def unregister(self, region: str) -> None:
        self.calls += 1
        if self.failing is not None:
            raise self.failing
        if region in self.in_use:
            raise InferenceError("it is currently in use")
        self.regions.pop(region, None)

    def registered(self) -> list[str]:
        return list(self.regions)


def own_regions() -> list[str]:
    return [path.name for path in FOLDER.glob(f"{PREFIX}{os.getpid()}-*")]


def test_region_is_reused_when_a_request_is_done() -> None:
    registry = KeptRegistry()
    memory = SharedMemoryPool(registry)
    for size in (ENOUGH + 5, ENOUGH, ENOUGH + 5):
        with memory.borrow(size) as region:
            assert region is not None
            assert region.size == ENOUGH + 5
            assert own_regions() == [], "the server has mapped it, and nobody else can"
    with memory.borrow(ENOUGH) as first, memory.borrow(ENOUGH) as second:
        assert first is not None
        assert second is not None
        assert first.name != second.name
    memory.close()
    assert registry.regions == {}


def test_larger_region_takes_the_place_of_one_that_is_too_small() -> None:
    registry = KeptRegistry()
    memory = SharedMemoryPool(registry)
    for size in (ENOUGH, 2 * ENOUGH, ENOUGH):
        with memory.borrow(size):
            pass
    assert list(registry.regions.values()) == [2 * ENOUGH]


@pytest.mark.parametrize("size", [MIN_BYTES - 1, MAX_BYTES + 1])
def test_no_region_is_created_when_a_batch_is_too_small_or_too_large(size: int) -> None:
    with SharedMemoryPool(KeptRegistry()).borrow(size) as region:
        assert region is None


def test_region_is_not_reused_when_its_request_failed() -> None:
    """The server may still read it, and would mix up the images of two requests."""
    registry = KeptRegistry()
    memory = SharedMemoryPool(registry)
    with suppress(InferenceError), memory.borrow(ENOUGH) as failed:
        assert failed is not None
        registry.in_use.add(failed.name)
        raise InferenceError("too late")
    with memory.borrow(ENOUGH) as following:
        assert following is not None
        assert following.name != failed.name
    assert failed.name in registry.regions
    registry.in_use.clear()
    memory.close()
    assert registry.regions == {}


def test_region_that_the_server_kept_is_unregistered_when_the_next_is_created() -> None:
    """Otherwise the server would keep memory for each timed-out request of a long-lived client."""
    registry = KeptRegistry()
    memory = SharedMemoryPool(registry)
    for _ in range(4):
        with suppress(InferenceError), memory.borrow(ENOUGH) as failed:
            assert failed is not None
            registry.in_use = {failed.name}
            raise InferenceError("too late")
        assert registry.regions.keys() == {failed.name}, "its predecessor is gone"
    registry.in_use.clear()
    with memory.borrow(ENOUGH) as following:
        assert following is not None
        assert registry.regions.keys() == {following.name}


@pytest.mark.parametrize(
    ("error", "is_temporary"),
    [(InferenceError("cannot open"), False), (TokenError("closed"), False), (UnreachableError("away"), True)],
)
def test_pictures_are_sent_when_the_server_takes_no_region(error: TritonkitError, is_temporary: bool) -> None:
    registry = KeptRegistry()
    registry.failing = error
    memory = SharedMemoryPool(registry)
    with memory.borrow(ENOUGH) as region:
        assert region is None
    assert own_regions() == []
    registry.failing = None
    with memory.borrow(ENOUGH) as region:
        assert (region is not None) is is_temporary
    memory.close()


class LateRegistry(KeptRegistry):
    """Registers a region, but answers after the deadline."""

    def register(self, region: str, size: int) -> None:
        super().register(region, size)
        raise DeadlineError("too late")


def test_region_is_unregistered_when_it_was_mapped_too_late() -> None:
    registry = LateRegistry()
    memory = SharedMemoryPool(registry)
    for _ in range(3):
        with memory.borrow(ENOUGH) as region:
            assert region is None
        assert len(registry.regions) == 1, "its predecessor is gone"
    memory.close()
    assert registry.regions == {}


def test_unreachable_server_gets_one_request_when_the_pool_closes() -> None:
    registry = KeptRegistry()
    inputs = SharedMemoryPool(registry)
    with inputs.borrow(ENOUGH), inputs.borrow(ENOUGH), inputs.borrow(ENOUGH):
        pass
    registry.failing = UnreachableError("gone")
    inputs.close()
    assert (registry.calls, len(registry.regions)) == (1, 3)


def test_regions_of_ended_processes_are_removed_when_the_next_one_begins() -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    orphan = f"{PREFIX}{int(ended.stdout)}-1-00"
    alive = f"{PREFIX}{os.getpid()}-{Path('/proc/self/stat').read_text().rpartition(')')[2].split()[19]}-00"
    reused = f"{PREFIX}{os.getpid()}-1-00"
    registry = KeptRegistry()
    registry.regions = dict.fromkeys([orphan, alive, reused, "somebody-else-s"], 1)
    (FOLDER / orphan).touch()
    with SharedMemoryPool(registry).borrow(ENOUGH) as region:
        assert region is not None
        assert registry.regions.keys() == {alive, "somebody-else-s", region.name}
    assert not (FOLDER / orphan).exists()


def as_another_user(code: str, *within: str) -> str:
    """Run Python as user 65534 and return what it printed. `within` is a command that runs it."""
    module = "tests.integration.tritonkit.test_shared_memory"
    drop = f"import os; from {module} import *; os.setgid(65534); os.setuid(65534)\n"
    command = [*within, sys.executable, "-c", drop + code]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_region_is_created_when_another_user_left_a_file_that_cannot_be_deleted() -> None:
    leftover = FOLDER / f"{PREFIX}{2**22 + os.getpid()}-1-00"  # no process has such a number
    leftover.touch()
    try:
        output = as_another_user(
            "with SharedMemoryPool(KeptRegistry()).borrow(ENOUGH) as region: print(region is not None)"
        )
        assert (output, leftover.exists()) == ("True", True)
    finally:
        leftover.unlink()
    assert not own_regions()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_region_of_another_user_is_left_alone_when_its_process_is_hidden() -> None:
    region = f"{PREFIX}{os.getpid()}-{Path('/proc/self/stat').read_text().rpartition(')')[2].split()[19]}-00"
    code = f"""if True:
        registry = KeptRegistry()
        registry.regions = {{{region!r}: 1, "{PREFIX}{2**22 + 1}-1-00": 1}}
        assert not Path("/proc/{os.getpid()}").exists()
        with SharedMemoryPool(registry).borrow(ENOUGH) as own:
            print({region!r} in registry.regions, len(registry.regions))
    """
    hide = "mount -t proc -o hidepid=2 proc /proc"
    if subprocess.run(["unshare", "--mount", "sh", "-c", hide], capture_output=True).returncode != 0:
        pytest.skip("no /proc can be mounted here")
    assert as_another_user(code, "unshare", "--mount", "sh", "-c", f'{hide} && exec "$0" "$@"') == "True 2"


@pytest.fixture
def batch_of() -> Callable[[int], ImageArray]:
    def create(seed: int) -> ImageArray:
        return np.random.default_rng(seed).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)

    return create


def unregister(registry: RegionRegistry, name: str) -> None:
    """Unregister a region; Triton uses it for a moment after its answer."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return registry.unregister(name)
        except InferenceError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def test_answers_stay_right_when_the_server_forgot_all_regions(
    served: str, batch_of: Callable[[int], ImageArray]
) -> None:
    connection = Connection(url=served, shared_memory=True)
    with closing(TritonClient(connection)) as server, closing(TritonClient(served)) as plain:
        spec = TritonRunner(server, "resnet18").spec
        registry = RegionRegistry(Transport(Connection(url=served)))
        others = set(registry.registered())  # of clients in this process whose requests timed out
        for seed in range(3):
            expected = plain.infer("resnet18", "", spec, batch_of(seed)).outputs["probabilities"]
            answered = server.infer("resnet18", "", spec, batch_of(seed)).outputs["probabilities"]
            assert np.allclose(answered, expected, atol=1e-5)
            own = set(registry.registered()) - others
            assert seed == 1 or len(own) == 1, "the request after one that was forgotten is sent as it is"
            registry.unregister("tritonkit-of-nobody")  # is no error: one that was perhaps mapped can be let go of
            for name in own:
                unregister(registry, name)
    assert set(registry.registered()) <= others


@pytest.mark.parametrize("fixture", ["served", "served_http"])
def test_answers_are_the_same_when_pictures_go_through_shared_memory(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(fixture)
    images = np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)
    with (
        TritonRunner(TritonClient(url), "resnet18") as plain,
        TritonRunner(TritonClient(Connection(url=url, shared_memory=True)), "resnet18") as sharing,
    ):
        for size in (8, 3, 5):
            expected = plain.infer(images[:size])["probabilities"]
            assert np.allclose(sharing.infer(images[:size])["probabilities"], expected, atol=1e-5)
