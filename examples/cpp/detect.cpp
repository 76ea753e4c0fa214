// Finds objects in pictures with a network that `tinyssd export --format aoti` wrote: no Python.
//   detect model.pt2 photo.ppm ...
// The pictures are binary PPM (`convert photo.jpg photo.ppm`) of any size; a line a detection is printed:
//   photo.ppm CLASS CONFIDENCE X1 Y1 X2 Y2
// with the name of the class and the box as shares of the network's input, over which the picture is stretched.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// The next number of a PPM's head; comments run from # to the end of their line.
int64_t header_number(std::istream& file) {
  while (file >> std::ws && file.peek() == '#') file.ignore(1 << 20, '\n');
  int64_t number = 0;
  file >> number;
  return number;
}

// uint8 [1, 3, H, W].
at::Tensor read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind(2, '\0');
  file.read(kind.data(), 2);
  const int64_t width = header_number(file), height = header_number(file), most = header_number(file);
  if (!file || kind != "P6" || most != 255 || width < 1 || height < 1) {
    throw std::runtime_error(path + ": not a binary PPM of 8 bits a colour");
  }
  file.get();
  at::Tensor pixels = at::empty({height, width, 3}, at::kByte);
  file.read(reinterpret_cast<char*>(pixels.data_ptr<uint8_t>()), pixels.numel());
  if (!file) throw std::runtime_error(path + ": the picture ends too early");
  return pixels.permute({2, 0, 1}).unsqueeze(0).contiguous();
}

// The pictures that the network wants: [B, 3, height, width].
at::Tensor fitted(const at::Tensor& picture, int64_t height, int64_t width) {
  if (picture.size(2) == height && picture.size(3) == width) return picture;
  const at::Tensor scaled = at::upsample_bilinear2d(picture.to(at::kFloat), {height, width}, false);
  return scaled.round().clamp(0, 255).to(at::kByte);
}

std::vector<std::string> lines(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> found;
  for (std::string line; std::getline(stream, line);) found.push_back(line);
  return found;
}

void run(const std::vector<std::string>& arguments) {
  const c10::InferenceMode guard;
  torch::inductor::AOTIModelPackageLoader model(arguments[0]);
  auto about = model.get_metadata();  // what `tinyssd export` noted there
  const int64_t height = std::stoll(about.at("height")), width = std::stoll(about.at("width"));
  const std::vector<std::string> names = lines(about.at("classes"));
  for (size_t i = 1; i < arguments.size(); ++i) {
    std::vector<at::Tensor> inputs{fitted(read_ppm(arguments[i]), height, width)};
    const std::vector<at::Tensor> found = model.run(inputs);
    const at::Tensor rows = found[0][0].contiguous();
    const int64_t count = found[1][0].item<int64_t>();
    const float* row = rows.data_ptr<float>();
    for (int64_t k = 0; k < count; ++k, row += 6) {
      std::printf(
          "%s %s %.6f %.6f %.6f %.6f %.6f\n", arguments[i].c_str(), names.at(static_cast<size_t>(row[0]) - 1).c_str(),
          row[1], row[2], row[3], row[4], row[5]);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: detect model.pt2 picture.ppm ...\n");
    return 2;
  }
  try {
    run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "detect: %s\n", error.what());
    return 1;
  }
  return 0;
}
