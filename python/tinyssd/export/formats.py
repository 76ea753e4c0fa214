"""How a network is written in each format, and how a written one is loaded."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tinyssd_ops
from tinyssd.errors import ConfigError
from tinyssd.export.deployed import Deployed, Predictor

# The most pictures that an AOTInductor package takes at once: its buffers are planned for them.
_LARGEST_BATCH = 256


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        title: For people.
        file: The name of the file.
        packages: What it needs beyond torch, to write and to check.
        write: Writes a network, of which an input is given, to a path; the notes, text by name, go with it.
        load: The network in a file.
    """

    title: str
    file: str
    packages: tuple[str, ...]
    write: Callable[[Deployed, Tensor, Path, Mapping[str, str]], None]
    load: Callable[[Path], Predictor]


def expect_packages(name: str) -> None:
    """Raises :class:`ConfigError` where the format ``name`` cannot be written here."""
    missing = [one for one in FORMATS[name].packages if importlib.util.find_spec(one) is None]
    if missing:
        raise ConfigError(
            f"--format {name}: needs {', '.join(missing)}; pip install 'tinyssd_ops[export]' installs what is missing"
        )
    if tinyssd_ops.info()["backends"]["cpu"]["backend"] != "native":
        raise ConfigError(f"--format {name}: needs the native kernels; tinyssd info says why there are none")


def _write_onnx(model: Deployed, images: Tensor, path: Path, notes: Mapping[str, str]) -> None:
    from tinyssd_ops.onnx import translation_table

    with _quiet():
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            custom_translation_table=translation_table(),
            input_names=["images"],
            output_names=["detections", "counts"],
            dynamic_shapes={"images": {0: "batch"}},
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    proto = program.model_proto
    for name, text in notes.items():
        proto.metadata_props.add(key=name, value=text)
    path.write_bytes(proto.SerializeToString())


def _load_onnx(path: Path) -> Predictor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def predict(images: Tensor) -> tuple[Tensor, Tensor]:
        rows, counts = session.run(None, {"images": images.numpy()})
        return torch.from_numpy(rows), torch.from_numpy(counts)

    return predict


def _write_aoti(model: Deployed, images: Tensor, path: Path, notes: Mapping[str, str]) -> None:
    batch = torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
    with torch.no_grad(), _quiet():
        program = torch.export.export(model, (images,), dynamic_shapes={"images": {0: batch}})
        try:
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs={"aot_inductor.metadata": dict(notes)}
            )
        except Exception as error:
            if type(error).__name__ == "InvalidCxxCompiler":
                raise ConfigError("--format aoti: needs a C++ compiler, such as g++, and found none") from error
            raise


def _load_aoti(path: Path) -> Predictor:
    with _quiet():
        package: Any = torch._inductor.aoti_load_package(str(path))
    # A package takes its input to lie as the example did.
    return lambda images: tuple(package(images.contiguous()))  # type: ignore[return-value]


def _write_torchscript(model: Deployed, images: Tensor, path: Path, notes: Mapping[str, str]) -> None:
    with torch.no_grad(), _quiet():
        torch.jit.save(torch.jit.trace(model, (images,), check_trace=False), str(path), _extra_files=dict(notes))


def _load_torchscript(path: Path) -> Predictor:
    with _quiet():
        return torch.jit.load(str(path))  # type: ignore[no-any-return]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what the exporters say of their own future."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


FORMATS = {
    "onnx": Format("ONNX", "model.onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _load_onnx),
    "aoti": Format("AOTInductor package", "model.pt2", (), _write_aoti, _load_aoti),
    "torchscript": Format("TorchScript", "model.ts", (), _write_torchscript, _load_torchscript),
}
