"""The page beside an exported network: how it is used from Python and from C++."""

from __future__ import annotations

from tinyssd.data.place import ALIKE, GRAY
from tinyssd.export.deployed import Deployed
from tinyssd.run.config import RunConfig


def readme(model: Deployed, config: RunConfig) -> str:
    """The text of ``README.md``; all numbers are those of the network."""
    height, width = config.model.image_size
    kept = config.model.keep_shape
    return _PAGE.format(
        width=width,
        height=height,
        most=model.max_detections,
        shape=_KEPT.format(alike=ALIKE, gray=GRAY) if kept else _STRETCHED,
        keep=_KEEP.format(alike=ALIKE) if kept else "",
        gray=GRAY,
    )


_STRETCHED = """stretched over the input, whatever its shape"""

_KEPT = """keeping its shape:
it lies in the middle, with bars of the colour {gray} beside it. Only where the shapes differ by a factor of
less than {alike} is it stretched over the input"""

_KEEP = """
if max(across, down) >= {alike} * min(across, down):
    across = down = min(across, down)"""

_PAGE = """\
# A detector, exported

Whatever the format, the network takes `images`, uint8 [B, 3, {height}, {width}] (RGB, any B), and gives

- `detections`, float32 [B, {most}, 6]: rows `(class, confidence, x1, y1, x2, y2)` by falling confidence, padded with
  rows of class -1; the classes count from 1, and `model.json` has their names;
- `counts`, int64 [B]: how many rows of each picture are detections.

A picture is scaled to {width}x{height} (bilinear, smoothed where it shrinks), {shape}. Boxes are shares of
the whole input, and are moved back onto the picture. Scaling of colours, decoding and suppression are in the file; so
are the thresholds, which `model.json` tells.

## Pixels and boxes, in Python

```python
import json
import numpy as np
from PIL import Image, ImageOps

about = json.load(open("model.json", encoding="utf-8"))
picture = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
across, down = {width} / picture.width, {height} / picture.height{keep}
size = (max(1, round(picture.width * across)), max(1, round(picture.height * down)))
corner = (round(({width} - size[0]) / 2), round(({height} - size[1]) / 2))
canvas = Image.new("RGB", ({width}, {height}), {gray})
canvas.paste(picture.resize(size, Image.Resampling.BILINEAR), corner)
images = np.ascontiguousarray(np.array(canvas).transpose(2, 0, 1)[None])  # model.pt2 reads memory as it lies


def on_picture(boxes):
    # Shares of the input, [K, 4], as pixels of the picture.
    shares = (boxes * (({width}, {height}) * 2) - corner * 2) / (size * 2)
    return shares.clip(0, 1) * (picture.size * 2)


def show(detections, counts):
    rows = np.asarray(detections)[0, : int(counts[0])]
    for (label, score), box in zip(rows[:, :2], on_picture(rows[:, 2:])):
        print(about["classes"][int(label) - 1], round(float(score), 3), box.round(1))
```

## model.onnx

Operators of the standard alone, suppression by its NonMaxSuppression; any runtime will do.

```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
show(*session.run(None, {{"images": images}}))
```

```cpp
#include <onnxruntime_cxx_api.h>

Ort::Env env;
Ort::Session session(env, "model.onnx", Ort::SessionOptions{{}});
std::vector<uint8_t> pixels(3 * {height} * {width});  // of the canvas above, channel by channel, row by row
const int64_t shape[] = {{1, 3, {height}, {width}}};
auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
auto input = Ort::Value::CreateTensor<uint8_t>(memory, pixels.data(), pixels.size(), shape, 4);
const char* in[] = {{"images"}};
const char* out[] = {{"detections", "counts"}};
auto found = session.Run(Ort::RunOptions{{}}, in, &input, 1, out, 2);
const float* rows = found[0].GetTensorData<float>();  // boxes on the canvas; back as `on_picture` does
```

## model.pt2

An AOTInductor package, compiled for the CPU of this machine. It needs torch and the ops' native library, but no
Python code.

```python
import torch
import tinyssd_ops  # or torch.ops.load_library("libtinyssd_ops.so"), which examples/cpp builds

model = torch._inductor.aoti_load_package("model.pt2")
show(*model(torch.from_numpy(images)))
```

In C++, `examples/cpp` of tinyssd_ops is a whole program with its CMake project, which lays pictures on the input and
moves the boxes back as above; its heart:

```cpp
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

torch::inductor::AOTIModelPackageLoader model("model.pt2");  // with libtinyssd_ops.so linked or loaded
std::vector<at::Tensor> found = model.run({{images}});
```

## model.ts

TorchScript, for programs that have it already; torch itself advises torch.export instead.

```python
import torch
import tinyssd_ops

show(*torch.jit.load("model.ts")(torch.from_numpy(images)))
```

```cpp
#include <torch/script.h>

torch::jit::Module model = torch::jit::load("model.ts");  // with libtinyssd_ops.so linked or loaded
auto found = model.forward({{images}}).toTuple();
```
"""
