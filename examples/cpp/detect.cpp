// Finds objects in pictures with a network that `tinyssd export --format aoti` wrote: no Python.
//   detect model.pt2 photo.ppm ...
// The pictures are binary PPM (`convert photo.jpg -auto-orient photo.ppm`) of any size; a line a detection is printed:
//   photo.ppm CLASS CONFIDENCE X1 Y1 X2 Y2
// with the name of the class and the box as shares of the picture.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <exception>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

// How a picture comes onto the network's input, as the package notes it.
struct Input {
  int64_t height, width;
  bool keep_shape;              // else a picture is stretched over the input
  double stretch_below;         // so is one whose shape differs by a smaller factor
  std::array<int64_t, 3> fill;  // the colour beside a picture that keeps its shape
};

// Where a picture lies on the input, in pixels of it.
struct Place {
  int64_t x, y, width, height;
};

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

// The largest place in the middle of the input, as `fitted` of tinyssd/data/place.py finds it.
Place place_of(const at::Tensor& picture, const Input& input) {
  const double height = static_cast<double>(picture.size(2)), width = static_cast<double>(picture.size(3));
  const double across = static_cast<double>(input.width) / width, down = static_cast<double>(input.height) / height;
  const double scale = std::min(across, down);
  if (!input.keep_shape || std::max(across, down) < input.stretch_below * scale) {
    return {0, 0, input.width, input.height};
  }
  // Halves go to the even number, as Python rounds them.
  const int64_t w = std::max<int64_t>(1, std::llrint(width * scale));
  const int64_t h = std::max<int64_t>(1, std::llrint(height * scale));
  const auto middle = [](int64_t whole, int64_t part) { return std::llrint(static_cast<double>(whole - part) / 2); };
  return {middle(input.width, w), middle(input.height, h), w, h};
}

// What the network sees: uint8 [1, 3, height, width].
at::Tensor on_input(const at::Tensor& picture, const Input& input, const Place& place) {
  at::Tensor canvas = at::empty({1, 3, input.height, input.width}, at::kByte);
  for (int64_t channel = 0; channel < 3; ++channel) canvas.select(1, channel).fill_(input.fill[channel]);
  // Smoothed where the picture shrinks, as Pillow does it, and rounded alike.
  const at::Tensor scaled = at::_upsample_bilinear2d_aa(picture, {place.height, place.width}, false);
  canvas.narrow(2, place.y, place.height).narrow(3, place.x, place.width).copy_(scaled);
  return canvas;
}

// A coordinate as a share of the input, as a share of the picture that takes `length` of `whole` pixels from `start` on.
double on_picture(double share, int64_t whole, int64_t start, int64_t length) {
  const double pixels = share * static_cast<double>(whole) - static_cast<double>(start);
  return std::clamp(pixels / static_cast<double>(length), 0.0, 1.0);
}

std::vector<std::string> lines(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> found;
  for (std::string line; std::getline(stream, line);) found.push_back(line);
  return found;
}

// What `tinyssd export` noted in the package under a name.
std::string note(const std::unordered_map<std::string, std::string>& notes, const std::string& name) {
  const auto found = notes.find(name);
  if (found == notes.end()) throw std::runtime_error("the package notes no " + name + ": export the run again");
  return found->second;
}

Input input_of(const std::unordered_map<std::string, std::string>& notes) {
  Input input{
      std::stoll(note(notes, "height")),
      std::stoll(note(notes, "width")),
      note(notes, "keep_shape") == "1",
      std::stod(note(notes, "stretch_below")),
      {}};
  std::istringstream fill(note(notes, "fill"));
  for (int64_t& value : input.fill) fill >> value;
  return input;
}

void run(const std::vector<std::string>& arguments) {
  const c10::InferenceMode guard;
  torch::inductor::AOTIModelPackageLoader model(arguments[0]);
  const auto notes = model.get_metadata();
  const Input input = input_of(notes);
  const std::vector<std::string> names = lines(note(notes, "classes"));
  for (size_t i = 1; i < arguments.size(); ++i) {
    const at::Tensor picture = read_ppm(arguments[i]);
    const Place place = place_of(picture, input);
    std::vector<at::Tensor> inputs{on_input(picture, input, place)};
    const std::vector<at::Tensor> found = model.run(inputs);
    const at::Tensor rows = found[0][0].contiguous();
    const int64_t count = found[1][0].item<int64_t>();
    const float* row = rows.data_ptr<float>();
    for (int64_t k = 0; k < count; ++k, row += 6) {
      const auto x = [&](float share) { return on_picture(share, input.width, place.x, place.width); };
      const auto y = [&](float share) { return on_picture(share, input.height, place.y, place.height); };
      std::printf(
          "%s %s %.6f %.6f %.6f %.6f %.6f\n", arguments[i].c_str(), names.at(static_cast<size_t>(row[0]) - 1).c_str(),
          row[1], x(row[2]), y(row[3]), x(row[4]), y(row[5]));
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
