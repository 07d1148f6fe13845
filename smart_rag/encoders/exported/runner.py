"""Runners of ONNX files: ONNX Runtime, which Chroma installs, and OpenVINO, which is an extra."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

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


class _OfOneProcess:
    """The threads of a session do not exist in a forked process, so each process starts a session of its own.

    There, the session of the parent is never freed, because its end would wait for the threads for ever.
    """

    _living: ClassVar[weakref.WeakSet[_OfOneProcess]] = weakref.WeakSet()
    _session: Any = None

    def __init__(self) -> None:
        self._living.add(self)

    @classmethod
    def forget(cls) -> None:
        for runner in cls._living:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(runner._session))
            runner._session = None

    def _started(self) -> Any:
        if self._session is None:
            self._session = self._start()
        return self._session

    def _start(self) -> Any:
        raise NotImplementedError


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_OfOneProcess.forget)


class OnnxRunner(_OfOneProcess):
    """ONNX Runtime. Its threads sleep between two runs, so that other work has the cores at once."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.names: Sequence[str] = [each.name for each in self._started().get_inputs()]

    def _start(self) -> Any:
        onnxruntime = private_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = thread_count()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors, which are also raised
        return onnxruntime.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._started().run(None, {name: arrays[name] for name in self.names})[0]
        return found


class OpenvinoRunner(_OfOneProcess):
    """OpenVINO, in float32 or in bfloat16.

    Raises:
        MissingExtra: openvino is not installed.
    """

    def __init__(self, path: Path, precision: Precision) -> None:
        super().__init__()
        self._path, self._precision = path, precision
        self.names: Sequence[str] = [each.get_any_name() for each in self._started().inputs]

    def _start(self) -> Any:
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
        return core.compile_model(core.read_model(str(self._path)), "CPU", settings)

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        # A request of its own, because several threads may encode at the same time.
        request = self._started().create_infer_request()
        found = request.infer({name: arrays[name] for name in self.names}, share_inputs=True)
        return np.array(found[0], dtype=np.float32)


def private_onnxruntime(name: str = "onnxruntime") -> Any:
    """Return the module ``name`` of onnxruntime, which then sends nothing to its maker.

    Since release 1.29 it sends names and digests of models, unless ``ORT_DISABLE_TELEMETRY`` is set before its import.
    The thread that sends them also keeps a forked process from ending. Whoever sets the variable decides.
    """
    is_new = "onnxruntime" not in sys.modules
    is_decided = "ORT_DISABLE_TELEMETRY" in os.environ
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    module = importlib.import_module(name)
    if not is_new and not is_decided:
        sys.modules["onnxruntime"].disable_telemetry_events()
    return module


def thread_count() -> int:
    """Return how many threads may compute: as ``OMP_NUM_THREADS`` says, or one for each core of this process."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
