"""The GPUs: driver, CUDA against torch, memory, errors and clocks of each; and what a CPU computes with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from arxiv_embed.doctor.check import Check, fine, skipped, warn, wrong
from arxiv_embed.doctor.torch_seen import TorchSeen, torch_seen
from arxiv_embed.gpu.devices import parse_devices
from arxiv_embed.gpu.driver import DriverState, GpuState, driver_state

GB = 1e9
LITTLE_FREE = 0.5
"""Share of a GPU's memory; the rest is another program's."""
HOT = 85
"""°C, before anything is computed."""


def driver(state: DriverState | None) -> Check:
    if state is None:
        return skipped("NVIDIA driver", "none answers: runs compute on the CPU (with a GPU, see that nvidia-smi works)")
    cuda = "CUDA {}.{}".format(*state.cuda) if state.cuda else "a CUDA that it does not name"
    text = f"{state.version}, for {cuda}, {len(state.gpus)} GPUs"
    if not state.gpus:
        return wrong("NVIDIA driver", text, "see dmesg and nvidia-smi; in a container give --gpus all")
    return fine("NVIDIA driver", text)


def gpu(state: GpuState) -> Check:
    """The worst of what is to be said of one."""
    memory = "memory not told"
    if state.total_memory and state.free_memory is not None:
        memory = f"{state.free_memory / GB:.1f} of {state.total_memory / GB:.1f} GB free"
    heat = f"{state.temperature} °C" if state.temperature is not None else ""
    mig = f"MIG with {state.instances} instances" if state.instances is not None else ""
    ecc = {True: "ECC on", False: "ECC off", None: ""}[state.ecc]
    text = ", ".join(part for part in (state.product, memory, heat, ecc, mig) if part)
    if not state.product:
        return wrong(state.name, "it does not answer", "see dmesg for its XID; reset it, or restart the machine")
    if state.remapping:
        return wrong(state.name, f"{text}; rows of its memory wait to be exchanged", "nvidia-smi --gpu-reset -i N")
    if state.uncorrected:
        remedy = "nvidia-smi --gpu-reset -i N; have it exchanged if they come again"
        return wrong(state.name, f"{text}; {state.uncorrected} uncorrected errors of its memory", remedy)
    if state.instances == 0:
        return wrong(state.name, text, "make an instance (nvidia-smi mig -cgi …), or nvidia-smi -mig 0")
    if state.slowed_by:
        why = f"its clocks are slowed by {', '.join(state.slowed_by)}"
        return warn(state.name, f"{text}; {why}", "look at its cooling and power: nvidia-smi -q -d PERFORMANCE")
    if state.temperature is not None and state.temperature >= HOT:
        return warn(state.name, text, "look at its cooling before a long run")
    if state.total_memory and state.free_memory is not None and state.free_memory < LITTLE_FREE * state.total_memory:
        return warn(state.name, text, "nvidia-smi shows whose it is: batches are made to fit what is left")
    if state.persistence is False:
        return warn(state.name, f"{text}; persistence mode off", "nvidia-smi -pm 1: else each start takes seconds more")
    return fine(state.name, text)


def torch_and_driver(seen: TorchSeen, state: DriverState | None, visible: int) -> Check:
    """`visible` is how many GPUs a run would use by NVML."""
    name = "torch"
    if seen.hip:
        text = f"{seen.version} for ROCm {seen.hip}, {seen.gpus} GPUs"
        return fine(name, text) if seen.gpus else warn(name, text, "see rocm-smi and HIP_VISIBLE_DEVICES")
    if not seen.cuda:
        if state is not None and state.gpus:
            remedy = "install the build for CUDA that PyTorch's page names for your driver (docs/deployment.md)"
            return wrong(name, f"{seen.version} computes on CPUs alone, and there are {len(state.gpus)} GPUs", remedy)
        return fine(name, f"{seen.version}, for CPUs")
    text = f"{seen.version} for CUDA {seen.cuda}"
    if state is None:
        return fine(name, f"{text}; without a driver it computes on the CPU")
    built = tuple(int(part) for part in seen.cuda.split(".")[:2])
    if state.cuda and built[0] > state.cuda[0]:
        newest = "{}.{}".format(*state.cuda)
        remedy = f"upgrade the driver, or install torch for CUDA {state.cuda[0]} (docs/deployment.md)"
        return wrong(name, f"{text}, and the driver runs {newest} at most", remedy)
    if seen.trouble:
        return wrong(name, f"{text} cannot use CUDA ({seen.trouble})", "see nvidia-smi and CUDA_VISIBLE_DEVICES")
    has_instances = any(one.instances is not None for one in state.gpus)  # of those a process sees only the first
    if seen.gpus != visible and not (has_instances and seen.gpus):
        remedy = "see CUDA_VISIBLE_DEVICES, and dmesg for a GPU that has fallen off the bus"
        return wrong(name, f"{text} sees {seen.gpus} GPUs, NVML {visible}", remedy)
    return fine(name, f"{text}, sees {seen.gpus} GPUs")


def cpu(seen: TorchSeen) -> Check:
    instructions = ", ".join(seen.instructions) or "no vector instructions that torch names"
    return fine("CPU", f"computes in {seen.dtype}; has {instructions}; {seen.threads} threads")


def of_driver(look: Callable[[], DriverState | None] = driver_state) -> Iterator[Check]:
    state = look()
    yield driver(state)
    for one in state.gpus if state else ():
        yield gpu(one)


def of_torch(see: Callable[[], TorchSeen] = torch_seen) -> Iterator[Check]:
    seen = see()
    visible = sum(device.kind == "cuda" for device in parse_devices("auto"))
    yield torch_and_driver(seen, driver_state(), visible)
    yield cpu(seen)
