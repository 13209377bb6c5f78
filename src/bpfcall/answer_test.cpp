// The answerer with hostile input: a caller whose memory, fds and broker are made up here.
#include "bpfcall/answer.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>

#include <cerrno>
#include <cstring>

#include "spec/newer.hpp"

namespace bpftime {
namespace {

constexpr uint64_t kBase = 0x10000;

// 64 KB of memory at kBase; everything else is unmapped. fds below 100 are open, from 50 on ours.
struct Pretended {
  std::vector<std::byte> bytes = std::vector<std::byte>(1 << 16);
  std::vector<Request> asked;
  Reply next;

  Caller caller() {
    return Caller{
        CallerMemory{read, write, in_place, this}, identify, ask, open_path, directory, this};
  }
  template <class T>
  uint64_t put(uint64_t at, const T& value) {
    std::memcpy(bytes.data() + at, &value, sizeof(T));
    return kBase + at;
  }
  template <class T>
  T get(uint64_t at) {
    T value;
    std::memcpy(&value, bytes.data() + at, sizeof(T));
    return value;
  }

  bool holds(uint64_t address, uint64_t size) const {
    return address >= kBase && size <= bytes.size() && address - kBase <= bytes.size() - size;
  }
  static Result<void> read(void* self, uint64_t from, std::span<std::byte> to) {
    auto* p = static_cast<Pretended*>(self);
    if (!p->holds(from, to.size())) {
      return make_error(EFAULT, "unmapped");
    }
    if (!to.empty()) {
      std::memcpy(to.data(), p->bytes.data() + (from - kBase), to.size());
    }
    return {};
  }
  static Result<void> write(void* self, uint64_t to, std::span<const std::byte> from) {
    auto* p = static_cast<Pretended*>(self);
    if (!p->holds(to, from.size())) {
      return make_error(EFAULT, "unmapped");
    }
    if (!from.empty()) {
      std::memcpy(p->bytes.data() + (to - kBase), from.data(), from.size());
    }
    return {};
  }
  static void* in_place(void*, uint64_t, uint64_t, bool) { return nullptr; }
  static bool identify(void*, int fd, ObjectRef* ref) {
    *ref = ObjectRef{fd, 0, fd < 50 ? 0U : 7U, fd < 50 ? 0U : static_cast<uint64_t>(1000 + fd)};
    return fd >= 0 && fd < 100;
  }
  static Result<Reply> ask(void* self, Request* request) {
    auto* p = static_cast<Pretended*>(self);
    p->asked.push_back(std::move(*request));
    return std::move(p->next);
  }
  static Result<std::string> directory(void*, int fd) {
    return fd == AT_FDCWD ? std::string("/here")
                          : Result<std::string>(make_error(EBADF, "not open"));
  }
  static Result<UniqueFd> open_path(void*, const char* path) {
    UniqueFd fd(::open(path, O_PATH | O_CLOEXEC));
    return fd ? Result<UniqueFd>(std::move(fd)) : Result<UniqueFd>(make_error(errno, "open"));
  }
};

bpf_attr program_attr(Pretended* p, uint32_t count) {
  bpf_attr attr{};
  attr.prog_type = BPF_PROG_TYPE_KPROBE;
  attr.insns = kBase + 0x1000;
  attr.insn_cnt = count;
  std::memcpy(p->bytes.data() + 0x800, "GPL", 4);
  attr.license = kBase + 0x800;
  return attr;
}

TEST(AnswerBpf, AttrThatCannotBeReadIsEfault) {
  Pretended p;
  EXPECT_EQ(answer_bpf(p.caller(), BPF_MAP_CREATE, 0, 72).value, -EFAULT);
  EXPECT_EQ(answer_bpf(p.caller(), BPF_MAP_CREATE, ~0ULL, 72).value, -EFAULT);
  EXPECT_EQ(answer_bpf(p.caller(), BPF_MAP_CREATE, kBase + (1 << 16) - 8, 72).value, -EFAULT);
  EXPECT_TRUE(p.asked.empty());
}

TEST(AnswerBpf, TailThatIsNotZeroIsE2big) {
  Pretended p;
  EXPECT_EQ(answer_bpf(p.caller(), BPF_MAP_CREATE, kBase, 4096).value, 0);
  EXPECT_EQ(p.asked.back().attr.size(), kAttrBytes);
  EXPECT_EQ(answer_bpf(p.caller(), BPF_MAP_CREATE, kBase, 4097).value, -E2BIG);
  p.bytes[4095] = std::byte{1};
  EXPECT_EQ(answer_bpf(p.caller(), BPF_MAP_CREATE, kBase, 4096).value, -E2BIG);
  EXPECT_EQ(answer_bpf(p.caller(), BPF_MAP_CREATE, kBase, 4095).value, 0);
  EXPECT_EQ(answer_bpf(p.caller(), BPF_MAP_CREATE, kBase, UINT32_MAX).value, -E2BIG);
}

TEST(AnswerBpf, ProgramWithTooManyInstructionsIsE2bigBeforeAnythingIsCopied) {
  Pretended p;
  for (const uint32_t count : {0U, kMostInsns + 1, UINT32_MAX}) {
    bpf_attr attr = program_attr(&p, count);
    attr.license = 0;
    EXPECT_EQ(answer_bpf(p.caller(), BPF_PROG_LOAD, p.put(0, attr), sizeof(attr)).value, -E2BIG);
  }
  bpf_attr attr = program_attr(&p, kMostInsns);
  EXPECT_EQ(answer_bpf(p.caller(), BPF_PROG_LOAD, p.put(0, attr), sizeof(attr)).value, -EFAULT);
  EXPECT_TRUE(p.asked.empty());
}

TEST(AnswerBpf, ProgramCarriesEachOpenMapOnceAndNoClosedOne) {
  Pretended p;
  const bpf_insn load = {BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, 60};
  bpf_insn insns[10] = {};
  insns[0] = load;
  insns[2] = load;
  insns[4] = load;
  insns[4].imm = 500;  // not open
  insns[6] = load;
  insns[6].src_reg = BPF_PSEUDO_MAP_VALUE;
  insns[6].imm = 61;
  insns[8] = load;
  insns[8].src_reg = 0;  // a number that looks like an fd
  insns[8].imm = 62;
  p.put(0x1000, insns);
  const bpf_attr attr = program_attr(&p, 10);
  EXPECT_EQ(answer_bpf(p.caller(), BPF_PROG_LOAD, p.put(0, attr), sizeof(attr)).value, 0);
  ASSERT_EQ(p.asked.size(), 1U);
  EXPECT_NE(p.asked[0].ref(60), nullptr);
  EXPECT_NE(p.asked[0].ref(61), nullptr);
  EXPECT_EQ(p.asked[0].ref(62), nullptr);
  EXPECT_EQ(p.asked[0].ref(500), nullptr);
}

TEST(AnswerBpf, LogIsWrittenBesideAnErrorAndNeverBehindItsRoom) {
  Pretended p;
  bpf_attr attr = program_attr(&p, 1);
  attr.log_level = 1;
  attr.log_buf = kBase + 0x4000;
  attr.log_size = 4;
  p.next.value = -EACCES;
  p.next.output.assign(sizeof(LogOutput) + 100, std::byte{'x'});
  EXPECT_EQ(answer_bpf(p.caller(), BPF_PROG_LOAD, p.put(0, attr), sizeof(attr)).value, -EACCES);
  EXPECT_EQ(p.get<uint32_t>(0x4000), 0x78787878U);
  EXPECT_EQ(p.get<uint32_t>(0x4004), 0U);
}

TEST(AnswerBpf, WhatPointersInAnInfoNameIsWritten) {
  Pretended p;
  bpf_attr attr{};
  attr.info.bpf_fd = 60;
  attr.info.info_len = 8;
  attr.info.info = kBase + 0x4000;
  struct {
    InfoOutput head{8, 2};
    uint64_t info = 7;
    InfoPiece first{kBase + 0x4100, 4};
    uint64_t first_bytes = 0x11223344;
    InfoPiece second{kBase + 0x4200, 8};
    uint64_t second_bytes = 9;
  } output;
  const auto bytes = std::as_bytes(std::span(&output, 1));
  p.next.output.assign(bytes.begin(), bytes.end());
  EXPECT_EQ(answer_bpf(p.caller(), BPF_OBJ_GET_INFO_BY_FD, p.put(0, attr), 16).value, 0);
  EXPECT_EQ(p.get<uint64_t>(0x4000), 7U);
  EXPECT_EQ(p.get<uint64_t>(0x4100), 0x11223344U);
  EXPECT_EQ(p.get<uint64_t>(0x4200), 9U);
  p.next.output.assign(bytes.begin(), bytes.end() - 8);  // what is announced is not there
  EXPECT_EQ(answer_bpf(p.caller(), BPF_OBJ_GET_INFO_BY_FD, p.put(0, attr), 16).value, -EPROTO);
  output.second.address = 1;  // not the caller's
  p.next.output.assign(bytes.begin(), bytes.end());
  EXPECT_EQ(answer_bpf(p.caller(), BPF_OBJ_GET_INFO_BY_FD, p.put(0, attr), 16).value, -EFAULT);
}

TEST(AnswerBpf, MapsThatInstructionsNameByIndexAreSent) {
  Pretended p;
  const bpf_insn insns[] = {{BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_IDX, 0, 1},
                            {0, 0, 0, 0, 0},
                            {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
  p.put(0x1000, insns);
  bpf_attr attr = program_attr(&p, 3);
  attr.insns = kBase + 0x1000;
  const int32_t fds[] = {60, 61, 62};
  p.put(0x2000, fds);
  attr.fd_array = kBase + 0x2000;
  answer_bpf(p.caller(), BPF_PROG_LOAD, p.put(0, attr), sizeof(attr));
  ASSERT_EQ(p.asked.size(), 1U);
  const RequestPayload* array = p.asked[0].payload(offsetof(bpf_attr, fd_array));
  ASSERT_NE(array, nullptr);
  EXPECT_EQ(array->bytes.size(), 8U);
  EXPECT_NE(p.asked[0].ref(61), nullptr);
  EXPECT_EQ(p.asked[0].ref(62), nullptr);
}

TEST(AnswerBpf, InfoLengthIsWhatWasWritten) {
  Pretended p;
  bpf_attr attr{};
  attr.info.bpf_fd = 60;
  attr.info.info_len = 8;
  attr.info.info = kBase + 0x4000;
  const InfoOutput head{80, 0};
  p.next.output.assign(sizeof(head) + 80, std::byte{1});
  std::memcpy(p.next.output.data(), &head, sizeof(head));
  EXPECT_EQ(answer_bpf(p.caller(), BPF_OBJ_GET_INFO_BY_FD, p.put(0, attr), 16).value, 0);
  EXPECT_EQ(p.get<bpf_attr>(0).info.info_len, 8U);
  EXPECT_EQ(p.get<uint8_t>(0x4007), 1U);
  EXPECT_EQ(p.get<uint8_t>(0x4008), 0U);
  attr.info.info_len = 5000;
  EXPECT_EQ(answer_bpf(p.caller(), BPF_OBJ_GET_INFO_BY_FD, p.put(0, attr), 16).value, -E2BIG);
  attr.info.bpf_fd = 200;
  attr.info.info_len = 8;
  EXPECT_EQ(answer_bpf(p.caller(), BPF_OBJ_GET_INFO_BY_FD, p.put(0, attr), 16).value, -EBADFD);
}

TEST(AnswerBpf, TestRunOutputThatLiesAboutItsSizesIsRefused) {
  Pretended p;
  bpf_attr attr{};
  attr.test.prog_fd = 60;
  attr.test.data_out = kBase + 0x4000;
  attr.test.data_size_out = 64;
  TestRunOutput out{};
  out.data_bytes = UINT32_MAX;
  p.next.output.resize(sizeof(out));
  std::memcpy(p.next.output.data(), &out, sizeof(out));
  EXPECT_EQ(answer_bpf(p.caller(), BPF_PROG_TEST_RUN, p.put(0, attr), 80).value, -EPROTO);
  p.next.output.clear();
  EXPECT_EQ(answer_bpf(p.caller(), BPF_PROG_TEST_RUN, p.put(0, attr), 80).value, -EPROTO);
}

TEST(AnswerPerfOpen, SizeOutOfRangeIsE2bigAndTellsTheKnownOne) {
  Pretended p;
  perf_event_attr attr{};
  attr.size = 17;
  EXPECT_EQ(answer_perf_open(p.caller(), {p.put(0, attr), -1, 0, -1, 0}).value, -E2BIG);
  EXPECT_GE(p.get<perf_event_attr>(0).size, sizeof(attr));
  attr.size = 5000;
  EXPECT_EQ(answer_perf_open(p.caller(), {p.put(0, attr), -1, 0, -1, 0}).value, -E2BIG);
  EXPECT_EQ(answer_perf_open(p.caller(), {0, -1, 0, -1, 0}).value, -EFAULT);
  EXPECT_EQ(answer_perf_open(p.caller(), {kBase, -1, 0, -1, 1 << 20}).value, -EINVAL);
}

TEST(AnswerPerfOpen, PathWithoutAnEndIsE2big) {
  Pretended p;
  perf_event_attr attr{};
  attr.size = sizeof(attr);
  attr.config1 = kBase + 0x1000;
  std::memset(p.bytes.data() + 0x1000, 'a', 0x8000);
  EXPECT_EQ(answer_perf_open(p.caller(), {p.put(0, attr), -1, 0, -1, 0}).value, -E2BIG);
  std::memset(p.bytes.data() + 0x1000, 0, 0x8000);
  EXPECT_EQ(answer_perf_open(p.caller(), {p.put(0, attr), -1, 0, -1, 0}).value, -EINVAL);
  std::memcpy(p.bytes.data() + 0x1000, "/proc/self/exe", 15);
  EXPECT_EQ(answer_perf_open(p.caller(), {p.put(0, attr), -1, 0, -1, 0}).value, 0);
  ASSERT_EQ(p.asked.size(), 1U);
  EXPECT_EQ(p.asked[0].fds.size(), 1U);
}

TEST(ReadMapCall, FieldsThatTheCommandDoesNotKnowAreEinval) {
  Pretended p;
  const CallerMemory memory = p.caller().memory;
  bpf_attr attr{};
  attr.flags = 2;
  const uint64_t at = p.put(0, attr);
  EXPECT_EQ(read_map_call(memory, BPF_MAP_LOOKUP_ELEM, at, 32).error().code, EINVAL);
  EXPECT_EQ(read_map_call(memory, BPF_MAP_GET_NEXT_KEY, at, 32).error().code, EINVAL);
  EXPECT_EQ(read_map_call(memory, BPF_MAP_DELETE_ELEM, at, 32).error().code, EINVAL);
  EXPECT_TRUE(read_map_call(memory, BPF_MAP_UPDATE_ELEM, at, 32));
  EXPECT_TRUE(read_map_call(memory, BPF_MAP_LOOKUP_ELEM, at, 24));
  EXPECT_EQ(read_map_call(memory, BPF_MAP_LOOKUP_ELEM, 3, 24).error().code, EFAULT);
}

TEST(AnswerBpf, RelativePathsOfPinsBeginAtTheCallersDirectory) {
  constexpr int32_t kHere = AT_FDCWD;
  const struct {
    const char* path;
    uint32_t flags;
    int32_t path_fd;
    const char* full;  // null: EBADF, and nobody is asked
  } cases[] = {
      {"x", 0, 0, "/here/x"},      {"../x", kPathFd, kHere, "/here/../x"},
      {"/x", kPathFd, 77, "/x"},   {"x", 0, 77, "x"},  // the broker's to refuse
      {"x", kPathFd, 77, nullptr}, {"", 0, 0, ""},
  };
  for (const auto& c : cases) {
    Pretended p;
    bpf_attr attr{};
    char path[8] = "";
    std::strcpy(path, c.path);
    attr.pathname = p.put(0x100, path);
    attr.file_flags = c.flags;
    std::memcpy(reinterpret_cast<std::byte*>(&attr) + kPathFdAt, &c.path_fd, sizeof(c.path_fd));
    const Answer answer = answer_bpf(p.caller(), BPF_OBJ_GET, p.put(0, attr), kObjPinEnd);
    if (c.full == nullptr) {
      EXPECT_EQ(answer.value, -EBADF);
      EXPECT_TRUE(p.asked.empty());
      continue;
    }
    ASSERT_EQ(p.asked.size(), 1U);
    const auto& bytes = p.asked[0].payload(offsetof(bpf_attr, pathname))->bytes;
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), c.full);
  }
}

}  // namespace
}  // namespace bpftime
