// Reading a box from a tensor's memory, whose address need not be a multiple of the size of a number.
#pragma once

#include "../box.h"

namespace tinyssd {

template <class T>
Box<T> load_box(const T* boxes, int64_t i) {
  Box<T> box;
  memcpy(&box, boxes + 4 * i, sizeof(box));
  return box;
}

}  // namespace tinyssd
