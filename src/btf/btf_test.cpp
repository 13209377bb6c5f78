#include "btf/btf.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <fstream>
#include <iterator>
#include <random>

#include "btf/fields.hpp"
#include "btf/testing/parsed_btf.hpp"

namespace bpftime {
namespace {

using testing::BtfBuilder;
using testing::parsed;

std::span<const std::byte> bytes_of(const auto& list) { return std::as_bytes(std::span(list)); }

TEST(Btf, SizesGoThroughTypedefsQualifiersAndArrays) {
  BtfBuilder b;
  const uint32_t u32 = b.add_int("unsigned int", 4);
  const uint32_t pair = b.add_struct("pair", 8, {{"a", u32, 0}, {"b", u32, 4}});
  const uint32_t alias = b.add_typedef("pair_t", b.raw("", BTF_KIND_CONST, 0, pair));
  const uint32_t row = b.add_array(alias, u32, 10);
  const uint32_t table = b.add_array(row, u32, 3);
  const uint32_t pointer = b.add_pointer(table);
  const Btf btf = parsed(b);
  EXPECT_EQ(*btf.size_of(u32), 4U);
  EXPECT_EQ(*btf.size_of(alias), 8U);
  EXPECT_EQ(*btf.size_of(table), 240U);
  EXPECT_EQ(*btf.size_of(pointer), 8U);
  EXPECT_EQ(btf.size_of(0).error().code, EINVAL);
  EXPECT_EQ(btf.size_of(99).error().code, EINVAL);
  EXPECT_EQ(btf.find("pair", BtfKind::kStruct)->id, pair);
  EXPECT_EQ(btf.find("pair", BtfKind::kUnion).error().code, ENOENT);
}

TEST(Btf, MembersAreFoundByPathAndThroughAnonymousStructs) {
  BtfBuilder b;
  const uint32_t u64 = b.add_int("u64", 8);
  const uint32_t inner = b.add_struct("", 16, {{"x", u64, 0}, {"y", u64, 8}});
  const uint32_t named = b.add_struct("named", 16, {{"z", u64, 8}});
  const uint32_t outer =
      b.add_struct("outer", 40, {{"head", u64, 0}, {"", inner, 8}, {"n", named, 24}});
  const Btf btf = parsed(b);
  EXPECT_EQ(btf.find_member(outer, "y")->bit_offset, 128U);
  EXPECT_EQ(btf.find_member(outer, "n.z")->bit_offset, 256U);
  EXPECT_EQ(btf.find_member(outer, "z").error().code, ENOENT);
}

TEST(Btf, BitfieldsAndEnumsAreReadAsTheirFlagSays) {
  BtfBuilder b;
  const uint32_t u32 = b.add_int("u32", 4);
  const uint32_t bits =
      b.raw("bits", BTF_KIND_STRUCT, 1, 4, {b.string("f"), u32, 3U << 24 | 5}, true);
  const uint32_t neg = b.raw("neg", BTF_KIND_ENUM, 1, 4, {b.string("m"), 0xffffffff}, true);
  const uint32_t pos = b.raw("pos", BTF_KIND_ENUM, 1, 4, {b.string("p"), 0xffffffff});
  const uint32_t wide = b.raw("wide", BTF_KIND_ENUM64, 1, 8, {b.string("w"), 1, 2});
  const Btf btf = parsed(b);
  const auto members = btf.members(*btf.type(bits));
  ASSERT_EQ(members.size(), 1U);
  EXPECT_EQ(members[0].bit_offset, 5U);
  EXPECT_EQ(members[0].bitfield_bits, 3U);
  EXPECT_EQ(btf.enumerators(*btf.type(neg))[0].value, ~0ULL);
  EXPECT_EQ(btf.enumerators(*btf.type(pos))[0].value, 0xffffffffULL);
  EXPECT_EQ(btf.enumerators(*btf.type(wide))[0].value, 0x2'0000'0001ULL);
}

TEST(Btf, CirclesOfTypesFailWithEinval) {
  BtfBuilder b;
  const uint32_t first = b.add_typedef("a", 2);
  b.add_typedef("b", first);
  const uint32_t u32 = b.add_int("u32", 4);
  const uint32_t array = b.add_array(5, u32, 1);
  b.add_array(array, u32, 1);
  const uint32_t loop = b.add_struct("", 8, {{"", 6, 0}});
  const Btf btf = parsed(b);
  EXPECT_EQ(btf.resolve(first).error().code, EINVAL);
  EXPECT_EQ(btf.size_of(first).error().code, EINVAL);
  EXPECT_EQ(btf.size_of(array).error().code, EINVAL);
  ASSERT_EQ(loop, 6U);
  EXPECT_EQ(btf.find_member(loop, "x").error().code, EINVAL);
  EXPECT_TRUE(find_fields(btf, loop).has_value());
}

TEST(Btf, ReferencesToWhatIsNotThereFailWithEinval) {
  const auto fails = [](auto&& make) {
    BtfBuilder b;
    b.add_int("u32", 4);
    make(b);
    auto btf = Btf::parse(b.bytes());
    return !btf && btf.error().code == EINVAL;
  };
  EXPECT_FALSE(fails([](BtfBuilder& b) { b.add_pointer(1); }));
  EXPECT_TRUE(fails([](BtfBuilder& b) { b.add_pointer(3); }));
  EXPECT_TRUE(fails([](BtfBuilder& b) { b.add_array(1, 9, 1); }));
  EXPECT_TRUE(fails([](BtfBuilder& b) { b.add_struct("s", 4, {{"m", 3, 0}}); }));
  EXPECT_TRUE(fails([](BtfBuilder& b) { b.add_prototype(0, {{"p", 77, 0}}); }));
  EXPECT_TRUE(fails([](BtfBuilder& b) { b.raw("d", BTF_KIND_DATASEC, 1, 4, {8, 0, 4}); }));
  EXPECT_TRUE(fails([](BtfBuilder& b) { b.raw("e", BTF_KIND_ENUM, 1, 4, {0x1000, 0}); }));
  EXPECT_TRUE(fails([](BtfBuilder& b) { b.raw("e", BTF_KIND_ENUM64, 1, 8, {0x1000, 0, 0}); }));
  EXPECT_TRUE(fails([](BtfBuilder& b) { b.raw("k", 0, 0, 0); }));
  EXPECT_TRUE(fails([](BtfBuilder& b) { b.raw("k", 20, 0, 0); }));
  EXPECT_TRUE(fails([](BtfBuilder& b) { b.raw("cut", BTF_KIND_STRUCT, 2, 4, {0, 1, 0}); }));
}

TEST(Btf, AnythingCutOffOrChangedIsAnErrorOrReadable) {
  BtfBuilder b;
  const uint32_t u32 = b.add_int("u32", 4);
  const uint32_t lock = b.add_struct("bpf_spin_lock", 4, {{"val", u32, 0}});
  const uint32_t value = b.add_struct("value", 8, {{"lock", lock, 0}, {"n", u32, 4}});
  b.add_array(value, u32, 4);
  b.add_function("f", b.add_prototype(u32, {{"x", u32, 0}}), 1);
  const auto whole = b.bytes();
  for (size_t n = 0; n < whole.size(); ++n) {
    EXPECT_FALSE(Btf::parse(std::span(whole).first(n)).has_value()) << n;
  }
  std::mt19937 random(1);
  for (int i = 0; i < 20'000; ++i) {
    auto broken = whole;
    for (auto n = 1 + random() % 3; n > 0; --n) {
      broken[24 + random() % (broken.size() - 24)] = static_cast<std::byte>(random());
    }
    auto btf = Btf::parse(broken);
    for (uint32_t id = 0; btf && id <= btf->type_count(); ++id) {
      (void)btf->size_of(id);
      (void)find_fields(*btf, id);
    }
  }
}

TEST(Btf, TheRunningKernelsTypesAreReadWhole) {
  std::ifstream file("/sys/kernel/btf/vmlinux", std::ios::binary);
  const std::string data((std::istreambuf_iterator<char>(file)), {});
  if (data.empty()) {
    GTEST_SKIP() << "a kernel without BTF";
  }
  auto btf = Btf::parse(bytes_of(data));
  ASSERT_TRUE(btf.has_value()) << btf.error().why;
  EXPECT_GT(btf->type_count(), 10'000U);
  const BtfType task = *btf->find("task_struct", BtfKind::kStruct);
  EXPECT_GT(task.size_bytes, 1000U);
  EXPECT_TRUE(btf->find_member(task.id, "comm").has_value());
  for (uint32_t id = 1; id <= btf->type_count(); ++id) {
    EXPECT_TRUE(btf->type(id).has_value());
  }
}

TEST(BtfFields, LocksTimersAndKernelPointersAreFoundAtTheirOffsets) {
  BtfBuilder b;
  const uint32_t u64 = b.add_int("u64", 8);
  const uint32_t lock = b.add_struct("bpf_spin_lock", 4, {});
  const uint32_t timer = b.add_struct("bpf_timer", 16, {{"o", u64, 0}});
  const uint32_t task = b.add_struct("task_struct", 8, {{"x", u64, 0}});
  const uint32_t kptr = b.add_pointer(b.add_type_tag("kptr", task));
  const uint32_t plain = b.add_pointer(task);
  const uint32_t value = b.add_struct(
      "value", 48,
      {{"timer", timer, 24}, {"lock", lock, 0}, {"task", kptr, 8}, {"other", plain, 16}});
  const auto fields = find_fields(parsed(b), value);
  ASSERT_TRUE(fields.has_value());
  ASSERT_EQ(fields->size(), 3U);
  EXPECT_EQ((*fields)[0].kind, BtfFieldKind::kSpinLock);
  EXPECT_EQ((*fields)[1].kind, BtfFieldKind::kKptr);
  EXPECT_EQ((*fields)[1].offset, 8U);
  EXPECT_EQ((*fields)[1].pointee, task);
  EXPECT_EQ((*fields)[2].kind, BtfFieldKind::kTimer);
  EXPECT_EQ((*fields)[2].offset, 24U);
}

TEST(BtfFields, ASecondLockFailsWithE2bigAndAnOddPlaceWithEinval) {
  BtfBuilder b;
  const uint32_t lock = b.add_struct("bpf_spin_lock", 4, {});
  const uint32_t two = b.add_struct("two", 8, {{"a", lock, 0}, {"b", lock, 4}});
  const uint32_t odd = b.add_struct("odd", 8, {{"a", lock, 2}});
  const uint32_t large = b.add_struct("bpf_timer", 24, {});
  const Btf btf = parsed(b);
  EXPECT_EQ(find_fields(btf, two).error().code, E2BIG);
  EXPECT_EQ(find_fields(btf, odd).error().code, EINVAL);
  EXPECT_EQ(find_fields(btf, large).error().code, EINVAL);
}

// The types of lists and trees, and objects of them.
struct Graph {
  BtfBuilder b;
  uint32_t u64 = b.add_int("u64", 8);
  uint32_t lock = b.add_struct("bpf_spin_lock", 4, {});
  uint32_t head = b.add_struct("bpf_list_head", 16, {});
  uint32_t link = b.add_struct("bpf_list_node", 24, {});
  uint32_t root = b.add_struct("bpf_rb_root", 16, {});
  uint32_t node = b.add_struct("bpf_rb_node", 32, {});
  uint32_t count = b.add_struct("bpf_refcount", 4, {});
  uint32_t item = b.add_struct("item", 40, {{"n", u64, 0}, {"link", link, 8}});
  uint32_t owner(std::string_view name, const char* contains, bool has_lock = true,
                 bool has_link = false) {
    std::vector<BtfBuilder::Member> members = {{"head", head, 0}};
    if (has_lock) {
      members.push_back({"lock", lock, 16});
    }
    if (has_link) {
      members.push_back({"link", link, 24});
    }
    const uint32_t type = b.add_struct(name, 48, members);
    if (contains != nullptr) {
      b.add_decl_tag(contains, type, 0);
    }
    return type;
  }
  int error_of(uint32_t type, FieldsOf of = FieldsOf::kObject) {
    const auto fields = find_fields(parsed(b), type, of);
    return fields ? 0 : fields.error().code;
  }
};

TEST(BtfFields, AHeadSaysWhatItContainsAndWhere) {
  Graph g;
  const uint32_t type = g.owner("owner", "contains:item:link");
  const auto fields = find_fields(parsed(g.b), type);
  ASSERT_TRUE(fields.has_value()) << fields.error().why;
  ASSERT_EQ(fields->size(), 2U);
  EXPECT_EQ((*fields)[0].kind, BtfFieldKind::kListHead);
  EXPECT_EQ((*fields)[0].pointee, g.item);
  EXPECT_EQ((*fields)[0].node_offset, 8U);
  EXPECT_EQ((*fields)[1].kind, BtfFieldKind::kSpinLock);
}

TEST(BtfFields, AHeadWithoutATagALockOrANodeFailsWithEinval) {
  Graph g;
  EXPECT_EQ(g.error_of(g.owner("a", nullptr)), EINVAL);
  EXPECT_EQ(g.error_of(g.owner("b", "contains:item:link", false)), EINVAL);
  EXPECT_EQ(g.error_of(g.owner("c", "contains:item:n")), EINVAL);
  EXPECT_EQ(g.error_of(g.owner("d", "contains:item")), EINVAL);
  EXPECT_EQ(g.error_of(g.owner("e", "contains:nothing:link")), EINVAL);
  EXPECT_EQ(g.error_of(g.owner("f", "contain:item:link")), EINVAL);
  const uint32_t twice = g.owner("g", "contains:item:link");
  g.b.add_decl_tag("contains:item:link", twice, 0);
  EXPECT_EQ(g.error_of(twice), EINVAL);
}

TEST(BtfFields, NodesAreOfObjectsTimersOfValues) {
  Graph g;
  const uint32_t timer = g.b.add_struct("bpf_timer", 16, {{"o", g.u64, 0}});
  const uint32_t mixed = g.b.add_struct("mixed", 40, {{"timer", timer, 0}, {"link", g.link, 16}});
  const auto value = find_fields(parsed(g.b), mixed);
  ASSERT_EQ(value->size(), 1U);
  EXPECT_EQ((*value)[0].kind, BtfFieldKind::kTimer);
  const auto object = find_fields(parsed(g.b), mixed, FieldsOf::kObject);
  ASSERT_EQ(object->size(), 1U);
  EXPECT_EQ((*object)[0].kind, BtfFieldKind::kListNode);
}

TEST(BtfFields, ACountNeedsANode) {
  Graph g;
  const uint32_t alone = g.b.add_struct("alone", 8, {{"count", g.count, 0}});
  const uint32_t with = g.b.add_struct("with", 40, {{"count", g.count, 0}, {"node", g.node, 8}});
  EXPECT_EQ(g.error_of(alone), EINVAL);
  EXPECT_EQ(g.error_of(with), 0);
}

TEST(BtfFields, WhatMayOwnItselfFailsWithEloop) {
  Graph g;
  EXPECT_EQ(g.error_of(g.owner("self", "contains:self:link", true, true)), ELOOP);
  g.owner("inner", "contains:item:link", true, true);  // owned, and an owner
  EXPECT_EQ(g.error_of(g.owner("outer", "contains:inner:link")), 0);
  EXPECT_EQ(g.error_of(g.owner("middle", "contains:inner:link", true, true)), ELOOP);
  EXPECT_EQ(g.error_of(g.owner("top", "contains:middle:link")), ELOOP);
}

TEST(BtfFields, VariablesOfASectionAreLookedAtWithTheirTags) {
  Graph g;
  const uint32_t lock = g.b.raw("lock", BTF_KIND_VAR, 0, g.lock, {1});
  const uint32_t heads = g.b.add_array(g.head, g.u64, 2);
  const uint32_t list = g.b.raw("list", BTF_KIND_VAR, 0, heads, {1});
  g.b.add_decl_tag("contains:item:link", list, -1);
  const uint32_t section = g.b.raw(".bss.A", BTF_KIND_DATASEC, 2, 48, {lock, 0, 4, list, 16, 32});
  const auto fields = find_fields(parsed(g.b), section);
  ASSERT_TRUE(fields.has_value()) << fields.error().why;
  ASSERT_EQ(fields->size(), 3U);
  EXPECT_EQ((*fields)[1].offset, 16U);
  EXPECT_EQ((*fields)[2].offset, 32U);
  EXPECT_EQ((*fields)[2].pointee, g.item);
}

TEST(BtfRecords, FunctionsAndLinesAscendFromZero) {
  BtfBuilder b;
  const uint32_t func = b.add_function("f", b.add_prototype(0, {}), BTF_FUNC_STATIC);
  const uint32_t file = b.string("a.c"), text = b.string("return 0;");
  const Btf btf = parsed(b);
  const std::vector<uint32_t> good{0, func, 4, func}, late{1, func}, twice{0, func, 0, func},
      far{0, func, 9, func}, wrong{0, func - 1}, wide{0, func, 0}, unknown{0, func, 7};
  EXPECT_EQ(read_func_info(btf, bytes_of(good), 8, 9)->size(), 2U);
  for (const auto& bad : {late, twice, far, wrong}) {
    EXPECT_EQ(read_func_info(btf, bytes_of(bad), 8, 9).error().code, EINVAL);
  }
  EXPECT_TRUE(read_func_info(btf, bytes_of(wide), 12, 9).has_value());
  EXPECT_EQ(read_func_info(btf, bytes_of(unknown), 12, 9).error().code, E2BIG);
  EXPECT_EQ(read_func_info(btf, bytes_of(good), 4, 9).error().code, EINVAL);
  EXPECT_EQ(read_func_info(btf, bytes_of(good), 0, 9).error().code, EINVAL);
  const std::vector<uint32_t> lines{0, file, text, 14U << 10 | 3};
  const auto read = read_line_info(btf, bytes_of(lines), 16, 1);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ((*read)[0].file, "a.c");
  EXPECT_EQ((*read)[0].text, "return 0;");
  EXPECT_EQ((*read)[0].line, 14U);
  EXPECT_EQ((*read)[0].column, 3U);
}

TEST(BtfExt, TablesAreSplitBySection) {
  BtfBuilder b;
  const uint32_t func = b.add_function("f", b.add_prototype(0, {}), BTF_FUNC_STATIC);
  const uint32_t name = b.string("uprobe/x");
  const Btf btf = parsed(b);
  const std::vector<uint32_t> ext{0x0001'eb9f, 24,   0, 24, 24,   0,  // magic, length, two tables
                                  8,           name, 2, 0,  func, 16};
  auto words = ext;
  words.insert(words.end(), {func});
  words[3] = 28;  // one table: 4 + 8 + 2 * 8
  words[4] = 28;
  const auto read = read_btf_ext(btf, bytes_of(words));
  ASSERT_TRUE(read.has_value()) << read.error().why;
  ASSERT_EQ(read->func_info.size(), 1U);
  EXPECT_EQ(read->func_info[0].section, "uprobe/x");
  EXPECT_EQ(read->func_info[0].records.size(), 16U);
  EXPECT_TRUE(read->line_info.empty());
  for (size_t n = 0; n < words.size() * 4; ++n) {
    EXPECT_FALSE(read_btf_ext(btf, bytes_of(words).first(n)).has_value()) << n;
  }
}

}  // namespace
}  // namespace bpftime
