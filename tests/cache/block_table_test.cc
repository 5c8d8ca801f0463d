#include "cache/block_table.h"

#include <cstring>
#include <map>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace chorale {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;
using State = BlockTable::State;

constexpr SlabOptions kSmall = {.bytes_max = 4 * 65'536, .slab_bytes = 65'536};

BlockKey KeyOf(uint64_t number) {
  BlockKey key;
  std::memcpy(key.bytes.data(), &number, sizeof(number));
  return key;
}

// Reserves and makes ready, without a pin; the keys that went are returned.
std::vector<BlockTable::Evicted> Add(BlockTable& table, uint64_t key, int64_t bytes) {
  std::vector<BlockTable::Evicted> evicted;
  const auto number = table.Reserve(KeyOf(key), {.bytes = bytes}, evicted);
  EXPECT_TRUE(number.has_value());
  table.Commit(*number);
  table.Unpin(*number);
  return evicted;
}

TEST(SlabAllocator, RoundsUpToEighthsOfAPowerOfTwo) {
  const SlabAllocator slabs({.bytes_max = 1 << 26, .slab_bytes = 1 << 24});
  EXPECT_EQ(slabs.SlotBytes(1), 4096);
  EXPECT_EQ(slabs.SlotBytes(4097), 8192);
  EXPECT_EQ(slabs.SlotBytes(65'536), 65'536);
  EXPECT_EQ(slabs.SlotBytes(65'537), 73'728);
  EXPECT_EQ(slabs.SlotBytes(5 << 20), 5 << 20);
  EXPECT_EQ(slabs.SlotBytes((5 << 20) + 1), (5 << 20) + (1 << 19));
  EXPECT_EQ(slabs.SlotBytes(1 << 24), 1 << 24);
  EXPECT_EQ(slabs.SlotBytes((1 << 24) + 1), 0);
}

TEST(SlabAllocator, GivesAnEmptySlabToAnotherSize) {
  SlabAllocator slabs({.bytes_max = 65'536, .slab_bytes = 65'536});
  const auto small = slabs.Allocate(4096);
  ASSERT_TRUE(small);
  EXPECT_FALSE(slabs.Allocate(32'768));
  slabs.Free(*small);
  EXPECT_TRUE(slabs.Allocate(32'768));
  EXPECT_TRUE(slabs.Allocate(32'768));
  EXPECT_FALSE(slabs.Allocate(32'768));
}

TEST(SlabAllocator, ClaimsOnlySlotsThatItCouldHaveGiven) {
  SlabAllocator slabs(kSmall);
  EXPECT_TRUE(slabs.Claim(65'536 + 8192, 8192));
  EXPECT_FALSE(slabs.Claim(65'536 + 8192, 8192)) << "taken";
  EXPECT_FALSE(slabs.Claim(65'536, 4096)) << "another size";
  EXPECT_FALSE(slabs.Claim(65'536 + 4096, 8192)) << "between slots";
  EXPECT_FALSE(slabs.Claim(-8192, 8192));
  EXPECT_FALSE(slabs.Claim(4 * 65'536, 8192)) << "behind the end";
  EXPECT_FALSE(slabs.Claim(INT64_MAX - 8191, 8192));
  EXPECT_FALSE(slabs.Claim(0, 1'000'000));
  EXPECT_TRUE(slabs.Claim(0, 20'480));
  EXPECT_FALSE(slabs.Claim(3 * 20'480, 20'480)) << "over the slab's end";
}

TEST(SlabAllocator, NeverGivesBytesTwice) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  SlabAllocator slabs({.bytes_max = 16 * 65'536, .slab_bytes = 65'536});
  std::map<int64_t, int64_t> taken;  // offset to size
  for (int step = 0; step < 20'000; ++step) {
    if (random() % 2 == 0 && !taken.empty()) {
      auto it = taken.lower_bound(static_cast<int64_t>(random() % (16 * 65'536)));
      if (it == taken.end()) it = taken.begin();
      slabs.Free(it->first);
      taken.erase(it);
      continue;
    }
    const int64_t bytes = slabs.SlotBytes(1 + static_cast<int64_t>(random() % 65'536));
    const auto offset = slabs.Allocate(bytes);
    if (!offset) continue;
    const auto next = taken.lower_bound(*offset);
    if (next != taken.end()) ASSERT_LE(*offset + bytes, next->first);
    if (next != taken.begin()) {
      ASSERT_LE(std::prev(next)->first + std::prev(next)->second, *offset);
    }
    ASSERT_LE(*offset + bytes, 16 * 65'536);
    taken[*offset] = bytes;
  }
  for (const auto& [offset, bytes] : taken) slabs.Free(offset);
  EXPECT_EQ(slabs.slabs_free(), slabs.slabs_total());
}

TEST(BlockTable, EvictsTheLeastUsedOfItsSize) {
  BlockTable table({.bytes_max = 65'536, .slab_bytes = 65'536});
  for (int key = 0; key < 4; ++key) EXPECT_THAT(Add(table, key, 16'384), IsEmpty());
  table.Touch(*table.Find(KeyOf(0)), 1);
  const auto evicted = Add(table, 4, 16'384);
  ASSERT_THAT(evicted, SizeIs(1));
  EXPECT_EQ(evicted[0].key, KeyOf(1));
  EXPECT_FALSE(table.Find(KeyOf(1)));
  EXPECT_TRUE(table.Find(KeyOf(0)));
}

TEST(BlockTable, NeverEvictsWhatIsPinned) {
  BlockTable table({.bytes_max = 65'536, .slab_bytes = 65'536});
  for (int key = 0; key < 4; ++key) {
    Add(table, key, 16'384);
    table.Pin(*table.Find(KeyOf(key)));
  }
  std::vector<BlockTable::Evicted> evicted;
  EXPECT_FALSE(table.Reserve(KeyOf(9), {.bytes = 16'384}, evicted));
  EXPECT_FALSE(table.Reserve(KeyOf(9), {.bytes = 4096}, evicted)) << "of another size";
  EXPECT_THAT(evicted, IsEmpty());
  table.Unpin(*table.Find(KeyOf(2)));
  EXPECT_EQ(Add(table, 9, 16'384)[0].key, KeyOf(2));
}

TEST(BlockTable, KeepsTheSlotOfARemovedBlockUntilItsLastPin) {
  BlockTable table({.bytes_max = 65'536, .slab_bytes = 65'536});
  Add(table, 1, 65'536);
  const auto number = *table.Find(KeyOf(1));
  table.Pin(number);
  table.Remove(number);
  EXPECT_FALSE(table.Find(KeyOf(1)));
  std::vector<BlockTable::Evicted> evicted;
  EXPECT_FALSE(table.Reserve(KeyOf(1), {.bytes = 65'536}, evicted));
  table.Unpin(number);
  EXPECT_TRUE(table.Reserve(KeyOf(1), {.bytes = 65'536}, evicted));
}

TEST(BlockTable, EmptiesASlabOfASizeThatIsNotUsedAnyMore) {
  BlockTable table(kSmall);
  for (int key = 0; key < 64; ++key) Add(table, key, 4096);
  // The other size has nothing: a slab is emptied for it, and more as it stays the busier one.
  EXPECT_THAT(Add(table, 1000, 32'768), SizeIs(16));
  for (int key = 1001; key < 1400; ++key) Add(table, key, 32'768);
  EXPECT_GE(table.bytes(), 3 * 65'536);
  EXPECT_FALSE(table.Find(KeyOf(0)));
}

TEST(BlockTable, RestoresBlocksWhereTheyWere) {
  BlockTable table(kSmall);
  EXPECT_TRUE(table.Restore(7, KeyOf(7), {.bytes = 4096}, 65'536));
  EXPECT_FALSE(table.Restore(7, KeyOf(8), {.bytes = 4096}, 0)) << "the number is taken";
  EXPECT_FALSE(table.Restore(3, KeyOf(7), {.bytes = 4096}, 0)) << "the key is";
  EXPECT_FALSE(table.Restore(3, KeyOf(8), {.bytes = 4096}, 65'536)) << "the slot is";
  EXPECT_FALSE(table.Restore(3, KeyOf(8), {.bytes = 0}, 0));
  EXPECT_FALSE(table.Restore(3, KeyOf(8), {.bytes = int64_t{1} << 40}, 0));
  EXPECT_FALSE(table.Restore(UINT32_MAX, KeyOf(8), {.bytes = 4096}, 0));
  table.EndRestore();
  Add(table, 1, 4096);
  EXPECT_EQ(*table.Find(KeyOf(1)), 0u) << "the lowest free number";
  EXPECT_EQ(table.block(*table.Find(KeyOf(7))).offset, 65'536);
}

// Every step's outcome against plain containers.
TEST(BlockTable, AgreesWithAModel) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  BlockTable table({.bytes_max = 8 * 65'536, .slab_bytes = 65'536});
  constexpr int64_t kSizes[] = {4096, 9000, 16'384, 40'000, 65'536};
  std::map<BlockKey, int64_t> ready;
  std::vector<BlockTable::Number> pinned;  // of ready and removed blocks
  for (int step = 0; step < 50'000; ++step) {
    const BlockKey key = KeyOf(random() % 200);
    const auto found = table.Find(key);
    ASSERT_EQ(found.has_value(), ready.contains(key));
    switch (random() % 6) {
      case 0:
      case 1: {
        if (found) break;
        std::vector<BlockTable::Evicted> evicted;
        const int64_t bytes = kSizes[random() % std::size(kSizes)];
        const auto number = table.Reserve(key, {.bytes = bytes}, evicted);
        for (const auto& block : evicted) {
          ASSERT_EQ(ready[block.key], block.meta.bytes);
          ready.erase(block.key);
        }
        if (!number) {
          ASSERT_THAT(evicted, IsEmpty());
          ASSERT_FALSE(pinned.empty());
          break;
        }
        for (const auto held : pinned) ASSERT_NE(*number, held);
        if (random() % 8 == 0) {
          table.Remove(*number);
        } else {
          table.Commit(*number);
          ready[key] = bytes;
        }
        table.Unpin(*number);
        break;
      }
      case 2:
        if (found) table.Touch(*found, random() % 2);
        break;
      case 3:
        if (found && pinned.size() < 12) {
          table.Pin(*found);
          pinned.push_back(*found);
        }
        break;
      case 4:
        if (!pinned.empty()) {
          std::swap(pinned[random() % pinned.size()], pinned.back());
          table.Unpin(pinned.back());
          pinned.pop_back();
        }
        break;
      case 5:
        if (found && random() % 4 == 0) {
          table.Remove(*found);
          ready.erase(key);
        }
        break;
    }
    int64_t bytes = 0;
    for (const auto& [_, size] : ready) bytes += size;
    ASSERT_EQ(table.bytes(), bytes);
    ASSERT_EQ(table.blocks(), static_cast<int64_t>(ready.size()));
    ASSERT_EQ(table.pins(), static_cast<int64_t>(pinned.size()));
    ASSERT_LE(table.slot_bytes(), 8 * 65'536);
  }
}

}  // namespace
}  // namespace chorale
