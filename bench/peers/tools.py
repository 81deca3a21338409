"""The other tools, each behind the same two questions; run by the Python of a tool's own environment.

    python tools.py TOOL

Lines of JSON come in and go out. The first says with what to begin: `{"model": FOLDER, "kept": FOLDER, "max_tokens": N,
"calibration": TEXTS}`, where `kept` is for what is made of the model, and is answered by `{"ready": true}`. Then
`{"vectors": TEXTS}` is answered by `{"vectors": BASE64}`, float32 [texts, dimensions], and `{"time": TEXTS}` by
`{"seconds": S}`. Whatever fails is answered by `{"error": SENTENCE}` and is the end.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

CHUNK_TOKENS = 128
CORES = len(os.sched_getaffinity(0))
OPENVINO = {"INFERENCE_NUM_THREADS": str(CORES)}


@dataclass(frozen=True)
class Task:
    """`calibration` are texts to quantize by; they are none of those that are measured."""

    model: str
    kept: str
    max_tokens: int
    calibration: list[str]


class Tool(Protocol):
    def encode(self, texts: list[str]) -> object:
        """What is timed."""

    def vectors(self, texts: list[str]) -> Any:
        """The vector of each text, [texts, dimensions]."""


class SentenceTransformers:
    """One of sentence-transformers' backends: 32 texts a batch, longest first, all cores in one batch."""

    def __init__(self, folder: str, max_tokens: int, backend: str, **model_kwargs: Any) -> None:
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(folder, device="cpu", backend=backend, model_kwargs=model_kwargs)
        self.model.max_seq_length = max_tokens

    def encode(self, texts: list[str]) -> Any:
        return self.model.encode(texts, show_progress_bar=False)

    vectors = encode


def onnx(task: Task, file_name: str) -> Tool:
    folder = _made(Path(task.kept, "onnx"), lambda place: _export_onnx(task, str(place)))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = CORES  # by itself it counts those that are not hyperthreads
    return SentenceTransformers(folder, task.max_tokens, "onnx", file_name=f"onnx/{file_name}", session_options=options)


def _export_onnx(task: Task, place: str) -> None:
    from sentence_transformers import export_dynamic_quantized_onnx_model, export_optimized_onnx_model

    SentenceTransformers(task.model, task.max_tokens, "onnx", export=True).model.save_pretrained(place)
    plain = SentenceTransformers(place, task.max_tokens, "onnx", file_name="onnx/model.onnx").model
    export_optimized_onnx_model(plain, "O3", place)
    export_dynamic_quantized_onnx_model(plain, "avx512_vnni", place)


def openvino(task: Task, **settings: str) -> Tool:
    folder = _made(Path(task.kept, "openvino"), lambda place: _export_openvino(task, str(place)))
    return SentenceTransformers(folder, task.max_tokens, "openvino", ov_config={**OPENVINO, **settings})


def _export_openvino(task: Task, place: str) -> None:
    SentenceTransformers(task.model, task.max_tokens, "openvino", export=True).model.save_pretrained(place)


def openvino_int8(task: Task) -> Tool:
    folder = _made(Path(task.kept, "openvino-int8"), lambda place: _quantize_openvino(task, place))
    file_name = "openvino/openvino_model_qint8_quantized.xml"
    return SentenceTransformers(folder, task.max_tokens, "openvino", file_name=file_name, ov_config=OPENVINO)


def _quantize_openvino(task: Task, place: Path) -> None:
    from sentence_transformers import export_static_quantized_openvino_model

    texts = place / "calibration"
    texts.mkdir()
    (texts / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in task.calibration))
    plain = SentenceTransformers(task.model, task.max_tokens, "openvino", export=True).model
    plain.save_pretrained(str(place))
    export_static_quantized_openvino_model(
        plain,
        quantization_config=None,
        model_name_or_path=str(place),
        dataset_name=str(texts),
        dataset_config_name="default",
        dataset_split="train",
        column_name="text",
    )


class Infinity:
    """infinity's engine in this process, without its server; it makes batches of 32 itself, by length."""

    def __init__(self, folder: str, **arguments: Any) -> None:
        from infinity_emb import AsyncEmbeddingEngine, EngineArgs

        self._loop = asyncio.new_event_loop()
        arguments = {"device": "cpu", "model_warmup": False, **arguments}
        self._engine = AsyncEmbeddingEngine.from_args(EngineArgs(model_name_or_path=folder, **arguments))
        self._loop.run_until_complete(self._engine.astart())

    def encode(self, texts: list[str]) -> Any:
        vectors, _ = self._loop.run_until_complete(self._engine.embed(sentences=texts))
        return vectors

    vectors = encode


def infinity_torch(task: Task, bettertransformer: bool) -> Tool:
    folder = _made(Path(task.kept, f"{task.max_tokens}-tokens"), partial(_copy_model, task))
    return Infinity(folder, engine="torch", bettertransformer=bettertransformer)


def infinity_onnx(task: Task) -> Tool:
    """Its graph as infinity optimizes it; infinity cuts at all the positions that the model has."""
    folder = _made(Path(task.kept, "onnx"), partial(_export_onnx_alone, task))
    return Infinity(folder, engine="optimum", pooling_method="mean")


def _copy_model(task: Task, place: Path) -> None:
    """With the token limit in its files, as infinity has no setting for it."""
    shutil.copytree(task.model, place, dirs_exist_ok=True)
    limits = json.loads((place / "sentence_bert_config.json").read_text())
    (place / "sentence_bert_config.json").write_text(json.dumps({**limits, "max_seq_length": task.max_tokens}))


def _export_onnx_alone(task: Task, place: Path) -> None:
    import torch
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoTokenizer

    torch.onnx.export = partial(torch.onnx.export, dynamo=False)  # this optimum is older than the other exporter
    ORTModelForFeatureExtraction.from_pretrained(task.model, export=True).save_pretrained(place)
    AutoTokenizer.from_pretrained(task.model).save_pretrained(place)


class Afterthoughts:
    """Late chunking by afterthoughts: whole sentences in chunks of at most 128 tokens, as the pool's."""

    def __init__(self, task: Task) -> None:
        from afterthoughts import LateEncoder

        self._encoder = LateEncoder(task.model, normalize=True, device="cpu")
        self._always = {"max_length": task.max_tokens, "show_progress": False, "return_text": False}

    def encode(self, texts: list[str]) -> Any:
        return self._encoder.encode(texts, max_chunk_tokens=CHUNK_TOKENS, max_chunk_sents=None, **self._always)[1]

    def vectors(self, texts: list[str]) -> Any:
        """All sentences in one chunk, special tokens in it too: mean pooling of the whole text."""
        frame, vectors = self._encoder.encode(
            texts, max_chunk_sents=sys.maxsize, exclude_special_tokens=False, prechunk=False, **self._always
        )
        return vectors[frame.sort("document_idx")["idx"].to_numpy()]


TOOLS: dict[str, Callable[[Task], Tool]] = {
    "onnx-O3": partial(onnx, file_name="model_O3.onnx"),
    "onnx-int8": partial(onnx, file_name="model_qint8_avx512_vnni.onnx"),
    "openvino": openvino,
    "openvino-float32": partial(openvino, INFERENCE_PRECISION_HINT="f32"),
    "openvino-int8": openvino_int8,
    "infinity-torch": partial(infinity_torch, bettertransformer=False),
    "infinity-bettertransformer": partial(infinity_torch, bettertransformer=True),
    "infinity-onnx": infinity_onnx,
    "afterthoughts": Afterthoughts,
}


def _made(folder: Path, make: Callable[[Path], object]) -> str:
    """`folder`, made by `make` where it is not there yet; what was cut short is made anew."""
    if not folder.is_dir():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        make(unfinished)
        unfinished.rename(folder)
    return str(folder)


def _answer(tool: Tool, question: dict[str, list[str]]) -> dict[str, object]:
    import numpy as np

    if "vectors" in question:
        vectors = np.ascontiguousarray(tool.vectors(question["vectors"]), np.float32)
        return {"vectors": base64.b64encode(vectors.tobytes()).decode()}
    begun = time.perf_counter()
    tool.encode(question["time"])
    return {"seconds": time.perf_counter() - begun}


def main(name: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the tools print is no answer

    def say(answer: dict[str, object]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        tool = TOOLS[name](Task(**json.loads(sys.stdin.readline())))
        say({"ready": True})
        for line in sys.stdin:
            say(_answer(tool, json.loads(line)))
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}".splitlines()[0]})
        raise
    finally:
        # Threads that a tool leaves behind would keep the process.
        answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
