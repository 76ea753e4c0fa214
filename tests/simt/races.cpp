#include "races.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace simt {
namespace {

constexpr size_t kCellBytes = 4, kPageCells = 1024;
constexpr size_t kMostReaders = 64, kMostStores = 8;

bool watching = false;
uint32_t launch_serial = 0;

// Accesses by lanes of one warp in the same segment, or by one thread.
struct Trace {
  Moment moment;
  uint32_t lanes = 0;
  bool strong = false;
  const void* code = nullptr;
};

// Of four bytes, or of one of them.
struct History {
  bool written = false;
  Trace write;
  std::vector<Trace> reads;  // since; those that a later one of the same thread follows are left out
};

struct Cell {
  uint32_t launch = 0;
  History whole;
  std::unique_ptr<std::array<History, kCellBytes>> parts;  // once an access is to some of the bytes
};

struct Page {
  std::array<Cell, kPageCells> cells;
};
constexpr size_t kMostPages = 1 << 13;
std::unordered_map<uint64_t, std::unique_ptr<Page>> pages;
uint64_t last_key = 0;  // of a page of global memory
Page* last = nullptr;

std::string name_of(const Trace& trace) {
  return "thread " + std::to_string(trace.moment.thread) + " of block " + std::to_string(trace.moment.block);
}

[[noreturn]] void report(const Fiber& me, const Trace& other, bool writes, bool other_writes, const void* code) {
  fail(
      "race: thread " + std::to_string(me.rank) + " of block " + std::to_string(me.block->serial) +
      (writes ? " writes at " : " reads at ") + line_of_code(code) + " what " + name_of(other) +
      (other_writes ? " writes at " : " reads at ") + line_of_code(other.code) +
      ", and nothing orders one before the other");
}

bool is_over(const Fiber& me, const Trace& trace) {
  if (trace.lanes == 0) return knows(me, trace.moment);
  Moment moment = trace.moment;
  const uint32_t warp = moment.thread - moment.thread % kWarp;
  for (uint32_t lane = 0; lane < kWarp; ++lane) {
    moment.thread = warp + lane;
    if ((trace.lanes >> lane & 1) != 0 && !knows(me, moment)) return false;
  }
  return true;
}

void add_read(std::vector<Trace>& reads, const Trace& mine) {
  const uint32_t lane = 1u << mine.moment.thread % kWarp, warp = mine.moment.thread / kWarp;
  size_t kept = 0;
  bool found = false;
  for (Trace& other : reads) {
    const bool same_warp = other.moment.block == mine.moment.block && other.moment.thread / kWarp == warp;
    const bool same_time = other.moment.barriers == mine.moment.barriers && other.moment.segment == mine.moment.segment;
    if (same_warp && other.strong == mine.strong) {
      if (same_time) {
        other.lanes |= lane;
        found = true;
      } else {
        other.lanes &= ~lane;
        if (other.moment.barriers < mine.moment.barriers) other.lanes = 0;
      }
    }
    if (other.lanes != 0) {
      if (&reads[kept] != &other) reads[kept] = other;
      ++kept;
    }
  }
  reads.resize(kept);
  if (found) return;
  reads.push_back(mine);
  reads.back().lanes = lane;
  // So many read it that another one would hardly be what a writer forgets.
  if (reads.size() > kMostReaders) reads.erase(reads.begin() + static_cast<long>(random() % kMostReaders));
}

void check(const Fiber& me, History& history, const Trace& mine, bool writes) {
  if (history.written && !(history.write.strong && mine.strong) && !is_over(me, history.write)) {
    report(me, history.write, writes, true, mine.code);
  }
  if (!writes) {
    add_read(history.reads, mine);
    return;
  }
  for (const Trace& read : history.reads) {
    if (!(read.strong && mine.strong) && !is_over(me, read)) report(me, read, true, false, mine.code);
  }
  history.written = true;
  history.write = mine;
  history.reads.clear();
}

Cell& cell_of(const Fiber& me, uint64_t address) {
  Block& block = *me.block;
  Cell* cell;
  if (block.shares(reinterpret_cast<const void*>(address))) {
    // A block has shared memory of its own, though it may lie where another's lay.
    const uint64_t index = (address - reinterpret_cast<uint64_t>(block.shared_memory)) / kCellBytes;
    const uint64_t key = ~uint64_t{0} - block.serial * kPageCells - index / kPageCells;
    auto& page = pages[key];
    if (page == nullptr) page = std::make_unique<Page>();
    cell = &page->cells[index % kPageCells];
  } else {
    const uint64_t index = address / kCellBytes, key = index / kPageCells;
    if (last == nullptr || key != last_key) {
      auto& page = pages[key];
      if (page == nullptr) page = std::make_unique<Page>();
      last = page.get();
      last_key = key;
    }
    cell = &last->cells[index % kPageCells];
  }
  if (cell->launch != launch_serial) {
    cell->launch = launch_serial;
    cell->whole.written = false;
    cell->whole.reads.clear();
    cell->parts.reset();
  }
  return *cell;
}

void check_bytes(const Fiber& me, uint64_t address, unsigned bytes, const Trace& mine, bool reads, bool writes) {
  const uint64_t end = address + bytes;
  while (address < end) {
    const uint64_t offset = address % kCellBytes, size = std::min(kCellBytes - offset, end - address);
    Cell& cell = cell_of(me, address);
    if (size < kCellBytes && cell.parts == nullptr) {
      cell.parts = std::make_unique<std::array<History, kCellBytes>>();
      cell.parts->fill(cell.whole);
    }
    for (uint64_t i = 0; i < (cell.parts != nullptr ? size : 1); ++i) {
      History& history = cell.parts != nullptr ? (*cell.parts)[offset + i] : cell.whole;
      if (reads && !writes) check(me, history, mine, false);
      if (writes) check(me, history, mine, true);
    }
    address += size;
  }
}

void publish_there(Fiber& me, const void* address, unsigned bytes) {
  const auto* begin = static_cast<const char*>(address);
  std::erase_if(me.stores, [&](const Store& store) {
    return begin < store.address + store.bytes && store.address < begin + bytes;
  });
}

// Remembers what the store is going to change.
void remember(Fiber& me, void* address, unsigned bytes) {
  if (bytes > sizeof(Store::before)) {
    publish(me);
    return;
  }
  auto* begin = static_cast<char*>(address);
  for (const Store& store : me.stores) {
    if (store.address == begin && store.bytes == bytes) return;
    if (begin < store.address + store.bytes && store.address < begin + bytes) {
      publish(me);
      break;
    }
  }
  if (me.stores.size() >= kMostStores) me.stores.erase(me.stores.begin() + static_cast<long>(random() % kMostStores));
  Store store{begin, bytes, {}, {}};
  memcpy(store.before, begin, bytes);
  me.stores.push_back(store);
}

}  // namespace

bool watching_races() { return watching; }

void begin_launch_races() {
  if (!watching) return;
  ++launch_serial;
  begin_clocks();
  if (pages.size() > kMostPages) {
    pages.clear();
    last = nullptr;
  }
}

void begin_races(Block& block) {
  if (!watching) return;
  block.barriers = 0;
  for (int i = 0; i < block.num_threads; ++i) {
    clock_start(*block.fibers[i]);
    block.fibers[i]->stores.clear();
  }
}

void watch_access(Fiber& me, void* address, unsigned bytes, Access kind, const void* code) {
  if (random() % 16 == 0) yield();
  const bool atomic = kind == Access::kAtomic;
  const bool strong = atomic || kind == Access::kFreshRead || kind == Access::kFreshWrite;
  const bool writes = atomic || kind == Access::kWrite || kind == Access::kFreshWrite;
  const auto place = reinterpret_cast<uint64_t>(address);
  const Trace mine = {now(me), 0, strong, code};
  check_bytes(me, place, bytes, mine, !writes || atomic, writes);
  if (strong) clock_access(me, place, !writes || atomic, writes);
  if (atomic) {
    publish_there(me, address, bytes);
  } else if (writes) {
    remember(me, address, bytes);
  }
}

void publish(Fiber& fiber) { fiber.stores.clear(); }

void hide_stores(Fiber& fiber) {
  // Some become visible now.
  std::erase_if(fiber.stores, [](const Store&) { return random() % 4 == 0; });
  for (size_t i = fiber.stores.size(); i-- > 0;) {
    Store& store = fiber.stores[i];
    memcpy(store.after, store.address, store.bytes);
    memcpy(store.address, store.before, store.bytes);
  }
}

void show_stores(Fiber& fiber) {
  for (Store& store : fiber.stores) {
    memcpy(store.before, store.address, store.bytes);
    memcpy(store.address, store.after, store.bytes);
  }
}

}  // namespace simt

extern "C" void simt_watch_races(int on) {
  simt::watching = on != 0;
  simt::pages.clear();
  simt::last = nullptr;
}
