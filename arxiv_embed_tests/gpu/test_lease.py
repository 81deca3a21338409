"""Leases: one run at a time on a device, all of a run's devices or none, and none beyond its process."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from arxiv_embed.errors import FatalError
from arxiv_embed.gpu.devices import Device
from arxiv_embed.gpu.lease import DeviceInUse, DeviceLeases

CPU = [Device(f"cpu:{number}", "cpu") for number in range(3)]
GPU = Device("cuda:0", "cuda", "GPU-aa")

HOLDER = (
    "import sys, time; from pathlib import Path; from arxiv_embed.gpu.devices import Device; "
    "from arxiv_embed.gpu.lease import DeviceLeases; "
    "devices = [Device(name, 'cpu') for name in sys.argv[2:]]; "
    "leases = DeviceLeases(devices, Path(sys.argv[1])).__enter__(); print('held', flush=True); time.sleep(60)"
)


def holder(folder: Path, *names: str) -> subprocess.Popen[str]:
    """A process that holds CPUs until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), *names], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "held\n"
    return process


def is_free(device: Device, folder: Path) -> bool:
    try:
        with DeviceLeases([device], folder):
            return True
    except DeviceInUse:
        return False


def test_a_device_in_use_is_refused_with_its_holders_name_until_that_is_killed(tmp_path: Path) -> None:
    process = holder(tmp_path, "cpu:0")
    with pytest.raises(DeviceInUse) as refusal:
        DeviceLeases([CPU[0]], tmp_path).__enter__()
    assert str(refusal.value) == (
        f"Device cpu:0 is in use by process {process.pid} on {socket.gethostname()}: "
        "wait for that run to end, stop it, or give other --devices."
    )
    assert isinstance(refusal.value, FatalError)
    assert is_free(CPU[1], tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert is_free(CPU[0], tmp_path)


@pytest.mark.parametrize("wanted", [CPU, CPU[::-1]], ids=["in order", "in reverse"])
def test_a_refusal_leaves_every_other_device_free(wanted: list[Device], tmp_path: Path) -> None:
    with DeviceLeases([CPU[1]], tmp_path):
        with pytest.raises(DeviceInUse, match="Device cpu:1 "):
            DeviceLeases(wanted, tmp_path).__enter__()
        assert is_free(CPU[0], tmp_path)
        assert is_free(CPU[2], tmp_path)


def test_leaving_frees_all_devices_also_after_an_error(tmp_path: Path) -> None:
    with DeviceLeases(CPU, tmp_path):
        assert not any(is_free(device, tmp_path) for device in CPU)
    assert all(is_free(device, tmp_path) for device in CPU)
    with pytest.raises(RuntimeError), DeviceLeases(CPU, tmp_path):
        raise RuntimeError
    assert all(is_free(device, tmp_path) for device in CPU)


def test_a_gpu_is_the_same_whatever_a_run_calls_it(tmp_path: Path) -> None:
    with DeviceLeases([GPU], tmp_path):
        assert not is_free(Device("cuda:3", "cuda", "GPU-aa"), tmp_path)
        assert is_free(Device("cuda:0", "cuda", "GPU-bb"), tmp_path)
        assert is_free(Device("cuda:0", "cuda", "MIG-GPU-aa/1/0"), tmp_path)
    with DeviceLeases([Device("cuda:0", "cuda", ordinal="3")], tmp_path):
        assert not is_free(Device("cuda:3", "cuda", ordinal="3"), tmp_path)
        assert is_free(Device("cuda:0", "cuda", ordinal="0"), tmp_path)


def test_every_device_has_a_file_of_its_own_in_the_folder(tmp_path: Path) -> None:
    devices = [GPU, Device("cuda:1", "cuda", "MIG-GPU-aa/1/0"), Device("cuda:2", "cuda", ordinal="5"), CPU[0]]
    with DeviceLeases(devices, tmp_path / "devices"):
        held = sorted(file.name for file in (tmp_path / "devices").iterdir())
    assert held == ["GPU-aa.lock", "MIG-GPU-aa_1_0.lock", "cpu:0.lock", "cuda:5.lock"]
