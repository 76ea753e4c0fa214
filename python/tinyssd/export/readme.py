"""The page beside an exported network: how it is used from Python and from C++."""

from __future__ import annotations

from tinyssd.export.deployed import Deployed
from tinyssd.run.config import RunConfig


def readme(model: Deployed, config: RunConfig) -> str:
    """The text of ``README.md``; all numbers are those of the network."""
    height, width = config.model.image_size
    bars = (
        f" keeping its shape: it lies in the middle, and where the shapes differ by more than 15 % gray bars "
        f"(114, 114, 114) fill the rest; boxes are shares of the whole {width}x{height} input"
        if config.model.keep_shape
        else ", stretched; boxes are shares of the picture"
    )
    pixels = (_WITH_BARS if config.model.keep_shape else _STRETCHED).format(width=width, height=height)
    return _PAGE.format(width=width, height=height, most=model.max_detections, bars=bars, pixels=pixels)


_STRETCHED = """\
images = np.array(picture.resize(({width}, {height}), Image.Resampling.BILINEAR)).transpose(2, 0, 1)[None]"""

_WITH_BARS = """\
across, down = {width} / picture.width, {height} / picture.height
if max(across, down) >= 1.15 * min(across, down):
    across = down = min(across, down)
size = (round(picture.width * across), round(picture.height * down))
canvas = Image.new("RGB", ({width}, {height}), (114, 114, 114))
canvas.paste(picture.resize(size, Image.Resampling.BILINEAR), (({width} - size[0]) // 2, ({height} - size[1]) // 2))
images = np.array(canvas).transpose(2, 0, 1)[None]"""

_PAGE = """\
# A detector, exported

Whatever the format, the network takes `images`, uint8 [B, 3, {height}, {width}] (RGB, any B), and gives

- `detections`, float32 [B, {most}, 6]: rows `(class, confidence, x1, y1, x2, y2)` by falling confidence, padded with
  rows of class -1; the classes count from 1, and `model.json` has their names;
- `counts`, int64 [B]: how many rows of each picture are detections.

A picture is scaled to {width}x{height}{bars}. Scaling of colours, decoding and suppression are in the file; so are the
thresholds, which `model.json` tells.

## Pixels, in Python

```python
import json
import numpy as np
from PIL import Image

about = json.load(open("model.json", encoding="utf-8"))
picture = Image.open("photo.jpg").convert("RGB")
{pixels}
```

## model.onnx

Operators of the standard alone, suppression by its NonMaxSuppression; any runtime will do.

```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
detections, counts = session.run(None, {{"images": images}})
for label, score, *box in detections[0, : counts[0]]:
    print(about["classes"][int(label) - 1], score, box)
```

```cpp
#include <onnxruntime_cxx_api.h>

Ort::Env env;
Ort::Session session(env, "model.onnx", Ort::SessionOptions{{}});
std::vector<uint8_t> pixels(3 * {height} * {width});  // channel by channel, row by row
const int64_t shape[] = {{1, 3, {height}, {width}}};
auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
auto input = Ort::Value::CreateTensor<uint8_t>(memory, pixels.data(), pixels.size(), shape, 4);
const char* in[] = {{"images"}};
const char* out[] = {{"detections", "counts"}};
auto found = session.Run(Ort::RunOptions{{}}, in, &input, 1, out, 2);
const float* rows = found[0].GetTensorData<float>();
```

## model.pt2

An AOTInductor package, compiled for the CPU of this machine: torch, the ops' native library and no Python code.

```python
import torch
import tinyssd_ops  # or torch.ops.load_library("libtinyssd_ops.so"), which examples/cpp builds

model = torch._inductor.aoti_load_package("model.pt2")
detections, counts = model(torch.from_numpy(images))
```

In C++, `examples/cpp` of tinyssd_ops is a whole program with its CMake project; its heart:

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

detections, counts = torch.jit.load("model.ts")(torch.from_numpy(images))
```

```cpp
#include <torch/script.h>

torch::jit::Module model = torch::jit::load("model.ts");  // with libtinyssd_ops.so linked or loaded
auto found = model.forward({{images}}).toTuple();
```
"""
