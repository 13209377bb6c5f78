#include "spec/context.hpp"

#include <gtest/gtest.h>
#include <linux/bpf.h>

#include "spec/newer.hpp"
#include "spec/prototype.hpp"

namespace bpftime {
namespace {

const ContextField* field_at(uint32_t type, uint32_t attach, int64_t at, int size, bool is_write) {
  const ContextSpec* context = find_context(type, attach);
  return context == nullptr ? nullptr : find_field(context->fields, at, size, is_write);
}

TEST(Context, ProgramTypesThatNobodyKnowsHaveNone) {
  for (const uint32_t type : {0U, 33U, 63U, 64U, 999U, UINT32_MAX}) {
    EXPECT_EQ(find_context(type, 0), nullptr) << type;
    EXPECT_EQ(find_return(type, 0), nullptr) << type;
    EXPECT_FALSE(may_be_sleepable(type, 0)) << type;
  }
}

TEST(Context, AttachTypesDecideWhereTheyMatter) {
  constexpr uint32_t kAddress = BPF_PROG_TYPE_CGROUP_SOCK_ADDR;
  EXPECT_EQ(find_context(kAddress, 0), nullptr);
  EXPECT_EQ(find_context(kAddress, 63), nullptr);
  EXPECT_EQ(find_context(kAddress, 64 + BPF_CGROUP_INET4_BIND), nullptr);
  EXPECT_NE(field_at(kAddress, BPF_CGROUP_INET4_BIND, 4, 4, true), nullptr);
  EXPECT_EQ(field_at(kAddress, BPF_CGROUP_INET6_BIND, 4, 4, true), nullptr);
  EXPECT_NE(find_context(BPF_PROG_TYPE_XDP, UINT32_MAX), nullptr);
  EXPECT_EQ(field_at(BPF_PROG_TYPE_XDP, BPF_XDP, 20, 4, false), nullptr);
  EXPECT_NE(field_at(BPF_PROG_TYPE_XDP, BPF_XDP_DEVMAP, 20, 4, false), nullptr);
}

TEST(Context, PiecesOfAFieldLieWithinOneGranule) {
  constexpr uint32_t kFilter = BPF_PROG_TYPE_SOCKET_FILTER;
  EXPECT_NE(field_at(kFilter, 0, 2, 2, false), nullptr);
  EXPECT_EQ(field_at(kFilter, 0, 3, 2, false), nullptr);
  EXPECT_EQ(field_at(kFilter, 0, 0, 8, false), nullptr);
  EXPECT_NE(field_at(kFilter, 0, 48, 8, true), nullptr);
  EXPECT_NE(field_at(kFilter, 0, 67, 1, true), nullptr);
  EXPECT_EQ(field_at(kFilter, 0, 64, 8, true), nullptr);
  EXPECT_EQ(field_at(kFilter, 0, -1, 1, false), nullptr);
  EXPECT_EQ(field_at(kFilter, 0, INT64_MAX - 8, 8, false), nullptr);
}

TEST(Context, EachFieldIsWholeGranulesAndMayBeUsed) {
  for (uint32_t type = 0; type < 64; ++type) {
    for (uint32_t attach = 0; attach < 64; ++attach) {
      const ContextSpec* context = find_context(type, attach);
      if (context == nullptr) {
        continue;
      }
      for (const ContextField& field : context->fields) {
        EXPECT_LT(field.begin, field.end) << type << ' ' << attach;
        EXPECT_NE(field.flags & (kRead | kWrite), 0) << type << ' ' << field.begin;
        EXPECT_EQ(field.type != nullptr, field.kind == FieldKind::kStruct);
        EXPECT_TRUE(field.granule == 1 || field.granule == 2 || field.granule == 4 ||
                    field.granule == 8);
      }
    }
  }
}

TEST(Prototype, VariantsAreOfTheirProgramTypesOnly) {
  EXPECT_EQ(find_prototype(107, BPF_PROG_TYPE_CGROUP_SOCK)->args[1].kind, Param::kCtx);
  EXPECT_EQ(find_prototype(107, BPF_PROG_TYPE_SOCK_OPS)->args[1].kind, Param::kSocketCommon);
  EXPECT_EQ(find_prototype(0, BPF_PROG_TYPE_SOCK_OPS), nullptr);
  const Prototype& bind = *find_prototype(64);
  EXPECT_TRUE(is_offered(bind, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT));
  EXPECT_FALSE(is_offered(bind, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_BIND));
  EXPECT_FALSE(is_offered(bind, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, 64 + BPF_CGROUP_INET4_CONNECT));
  EXPECT_FALSE(is_offered(bind, BPF_PROG_TYPE_KPROBE, BPF_CGROUP_INET4_CONNECT));
}

}  // namespace
}  // namespace bpftime
