"""Runners of ONNX files: ONNX Runtime, which Chroma installs, and OpenVINO, which is an extra."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from smart_rag.errors import MissingExtra

Backend = Literal["onnx", "openvino"]
Precision = Literal["float32", "bfloat16", "int8"]


class Runner(Protocol):
    """Runs one ONNX file with one output."""

    @property
    def names(self) -> Sequence[str]:
        """The names of the inputs."""
        ...

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the output. ``arrays`` may hold more than the inputs that the file has."""
        ...


def runner_of(path: Path, backend: Backend, precision: Precision = "float32") -> Runner:
    """Return what runs the file ``path``. ``precision`` is that of the products, which only OpenVINO can choose."""
    return OpenvinoRunner(path, precision) if backend == "openvino" else OnnxRunner(path)


class OnnxRunner:
    """ONNX Runtime. Its threads sleep between two runs, so that other work has the cores at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start()
        self.names: Sequence[str] = [each.name for each in self._session.get_inputs()]

    def _start(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = thread_count()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors, which are also raised
        # The threads of a session do not exist in a forked process, so each process has its own session.
        self._process = os.getpid()
        self._session = onnxruntime.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        if self._process != os.getpid():
            self._start()
        found: NDArray[np.float32] = self._session.run(None, {name: arrays[name] for name in self.names})[0]
        return found


class OpenvinoRunner:
    """OpenVINO, in float32 or in bfloat16.

    Raises:
        MissingExtra: openvino is not installed.
    """

    def __init__(self, path: Path, precision: Precision) -> None:
        self._path, self._precision = path, precision
        self._start()
        self.names: Sequence[str] = [each.get_any_name() for each in self._model.inputs]

    def _start(self) -> None:
        try:
            import openvino
        except ImportError as error:
            raise MissingExtra("openvino", "openvino", 'backend="openvino"') from error
        core = openvino.Core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if self._precision == "bfloat16" else "f32",
            "INFERENCE_NUM_THREADS": thread_count(),
        }
        self._process = os.getpid()
        self._model: Any = core.compile_model(core.read_model(str(self._path)), "CPU", settings)

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        if self._process != os.getpid():
            self._start()
        # A request of its own, because several threads may encode at the same time.
        request = self._model.create_infer_request()
        found = request.infer({name: arrays[name] for name in self.names}, share_inputs=True)
        return np.array(found[0], dtype=np.float32)


def thread_count() -> int:
    """Return how many threads may compute: as ``OMP_NUM_THREADS`` says, or one for each core of this process."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
