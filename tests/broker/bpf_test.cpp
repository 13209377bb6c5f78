// bpf(2) and perf_event_open(2) as the session answers them: the kernel's errno, in the kernel's
// order.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "broker/fake_targets.hpp"
#include "broker/program_check.hpp"

namespace bpftime {
namespace {

// The log of a load, behind its LogOutput.
std::string text_of(const Reply& reply) {
  const size_t head = std::min(reply.output.size(), sizeof(LogOutput));
  return {reinterpret_cast<const char*>(reply.output.data()) + head, reply.output.size() - head};
}

TEST(BpfCommand, UnknownOnesAndTailsAreRefusedAsTheKernelDoes) {
  Bench bench;
  EXPECT_EQ(bench.ask(requests::bpf(9999, requests::zero_attr())).value, -EINVAL);
  Request request = requests::map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1);
  request.attr.back() = std::byte{1};
  EXPECT_EQ(bench.ask(std::move(request)).value, -E2BIG);
  bpf_attr attr = requests::zero_attr();
  attr.start_id = 0;
  attr.open_flags = 1;
  EXPECT_EQ(bench.ask(requests::bpf(BPF_MAP_GET_NEXT_ID, attr)).value, -EINVAL);
}

TEST(BpfMap, CreateGivesAnFdAndARegionOfItsShape) {
  Bench bench;
  const int map = Bench::keep(bench.ask(requests::map_create(BPF_MAP_TYPE_HASH, 4, 8, 1000)));
  ASSERT_GE(map, 0);
  Request request;
  request.kind = MessageKind::kMapRegion;
  request.refs.push_back(ref_to(map));
  Reply region = bench.ask(std::move(request));
  ASSERT_EQ(region.value, 0);
  MapRegionReply about{};
  ASSERT_EQ(region.output.size(), sizeof(about));
  std::memcpy(&about, region.output.data(), sizeof(about));
  EXPECT_EQ(about.map_type, uint32_t{BPF_MAP_TYPE_HASH});
  EXPECT_EQ(about.max_entries, 1000U);
  struct stat st{};
  ASSERT_EQ(::fstat(region.fd.get(), &st), 0);
  EXPECT_EQ(static_cast<uint64_t>(st.st_size), about.region_bytes);
  EXPECT_NE(::ftruncate(region.fd.get(), 0), 0);  // sealed: nobody's access can fault
  ::close(map);
}

TEST(BpfMap, TooLargeOnesFailBeforeMemoryIsTaken) {
  Session::Config config{2, 8, {}, {}};
  config.limits.map_bytes = 1 << 20;
  config.limits.total_bytes = 3 << 19;
  Bench bench(config);
  EXPECT_EQ(bench.ask(requests::map_create(BPF_MAP_TYPE_ARRAY, 4, 1024, 4096)).value, -ENOMEM);
  const int first = Bench::keep(bench.ask(requests::map_create(BPF_MAP_TYPE_ARRAY, 4, 1000, 1000)));
  ASSERT_GE(first, 0);
  EXPECT_EQ(bench.ask(requests::map_create(BPF_MAP_TYPE_ARRAY, 4, 1000, 1000)).value, -ENOMEM);
  ::close(first);
  bench.settle();
  const int second =
      Bench::keep(bench.ask(requests::map_create(BPF_MAP_TYPE_ARRAY, 4, 1000, 1000)));
  EXPECT_GE(second, 0);  // what is given back can be had again
  ::close(second);
}

TEST(BpfMap, FreezeOfProgramReadOnlyDataGivesAFileThatNobodyCanWrite) {
  Bench bench;
  const int map = bench.map(BPF_F_RDONLY_PROG | BPF_F_MMAPABLE);
  ASSERT_GE(map, 0);
  bpf_attr attr = requests::zero_attr();
  attr.map_fd = static_cast<uint32_t>(map);
  Request freeze = requests::bpf(BPF_MAP_FREEZE, attr);
  freeze.refs.push_back(ref_to(map));
  ASSERT_EQ(bench.ask(std::move(freeze)).value, 0);
  Request again = requests::bpf(BPF_MAP_FREEZE, attr);
  again.refs.push_back(ref_to(map));
  EXPECT_EQ(bench.ask(std::move(again)).value, -EBUSY);
  auto target = bench.session->map_for_target(MapId{1});
  ASSERT_TRUE(target.has_value());
  EXPECT_TRUE(target->read_only);
  char byte = 1;
  EXPECT_LT(::pwrite(target->region_fd, &byte, 1, 0), 0);
  EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, target->region_fd, 0),
            MAP_FAILED);
  void* page = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, target->region_fd, 0);
  ASSERT_NE(page, MAP_FAILED);
  ::munmap(page, 4096);
  ::close(map);
}

TEST(BpfProgram, LoadAnswersWithAnFdAndTheVerifiersLog) {
  Bench bench;
  Reply reply = bench.ask(requests::prog_load(BPF_PROG_TYPE_KPROBE, return_zero(), 4096));
  EXPECT_EQ(reply.value, 0);
  EXPECT_EQ(reply.object, ObjectKind::kProg);
  EXPECT_EQ(text_of(reply).find("processed 2 insns (limit 1000000)"), 0U);
}

TEST(BpfProgram, WhatIsNotSafeIsRefusedUnlessItsUserWantsItByName) {
  Bench bench;
  std::vector<bpf_insn> insns = return_zero();
  insns[0] = insn(BPF_LDX | BPF_MEM | BPF_DW, 0, 1, 200, 0);  // beyond pt_regs
  Reply reply = bench.ask(requests::prog_load(BPF_PROG_TYPE_KPROBE, insns, 4096));
  EXPECT_EQ(reply.value, -EACCES);
  EXPECT_NE(text_of(reply).find("invalid bpf_context access"), std::string::npos);
  bench.caller.unverified = true;
  reply = bench.ask(requests::prog_load(BPF_PROG_TYPE_KPROBE, insns, 4096));
  EXPECT_EQ(reply.value, 0);
  EXPECT_EQ(text_of(reply).find("program probe is not verified\n"), 0U);
  ASSERT_FALSE(bench.log.empty());
  EXPECT_EQ(bench.log.back(), "program probe is not verified");
}

TEST(BpfProgram, StructuralFaultsAreEinvalWithALog) {
  Bench bench;
  Reply reply = bench.ask(requests::prog_load(
      BPF_PROG_TYPE_KPROBE, {insn(BPF_JMP | BPF_JA, 0, 0, 100, 0), return_zero()[1]}, 4096));
  EXPECT_EQ(reply.value, -EINVAL);
  EXPECT_FALSE(reply.output.empty());
  EXPECT_EQ(bench.ask(requests::prog_load(BPF_PROG_TYPE_KPROBE, {})).value, -E2BIG);
  EXPECT_EQ(bench.ask(requests::prog_load(12345, return_zero())).value, -EINVAL);
}

TEST(BpfProgram, UnknownHelperIsRefusedOnlyWhereItCanBeReached) {
  Bench bench;
  const auto call = insn(BPF_JMP | BPF_CALL, 0, 0, 0, 2001000003);
  Reply reply =
      bench.ask(requests::prog_load(BPF_PROG_TYPE_KPROBE, {call, return_zero()[1]}, 4096));
  EXPECT_EQ(reply.value, -EINVAL);
  EXPECT_NE(text_of(reply).find("invalid func unknown#2001000003"), std::string::npos);
  const int fd = Bench::keep(bench.ask(requests::prog_load(
      BPF_PROG_TYPE_KPROBE,
      {return_zero()[0], insn(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1, 0), call, return_zero()[1]})));
  EXPECT_GE(fd, 0);
  ::close(fd);
}

TEST(BpfProgram, MapLoadsMustNameMaps) {
  Bench bench;
  const int not_a_map = bench.program();
  const auto load = [&](int fd, bool named) {
    Request request = requests::prog_load(
        BPF_PROG_TYPE_KPROBE, {insn(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, fd),
                               insn(0, 0, 0, 0, 0), return_zero()[0], return_zero()[1]});
    if (named) {
      request.refs.push_back(ref_to(fd));
    }
    return bench.ask(std::move(request)).value;
  };
  EXPECT_EQ(load(77, false), -EBADF);
  EXPECT_EQ(load(not_a_map, true), -EINVAL);
  EXPECT_EQ(load(0, true), -EINVAL);  // a foreign file
  ::close(not_a_map);
}

// facts: libbpf's probe for global data uses offset 16 of a value of 32 bytes; its newest wants a
// refusal of 1 << 30.
TEST(BpfProgram, DirectValueOffsetsAreChecked) {
  Bench bench;
  const int map = bench.map();
  const auto load = [&](int offset) {
    Request request =
        requests::prog_load(BPF_PROG_TYPE_SOCKET_FILTER,
                            {insn(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_VALUE, 0, map),
                             insn(0, 0, 0, 0, offset), return_zero()[0], return_zero()[1]},
                            4096);
    request.refs.push_back(ref_to(map));
    return bench.ask(std::move(request));
  };
  EXPECT_EQ(load(16).value, 0);
  EXPECT_EQ(load(32).value, -EINVAL);
  const Reply far = load(1 << 30);
  EXPECT_EQ(far.value, -EINVAL);
  EXPECT_NE(text_of(far).find("direct value offset of"), std::string::npos);
  ::close(map);
}

TEST(BpfProgram, ALogThatDoesNotFitIsEnospc) {
  Bench bench;
  const Reply reply = bench.ask(requests::prog_load(BPF_PROG_TYPE_KPROBE, return_zero(), 8));
  EXPECT_EQ(reply.value, -ENOSPC);
  ASSERT_EQ(reply.output.size(), sizeof(LogOutput) + 8);
  LogOutput head;
  std::memcpy(&head, reply.output.data(), sizeof(head));
  EXPECT_GT(head.true_bytes, 8U);
  bench.settle();
  EXPECT_EQ(bench.session->objects().reference_count(), 0U);
}

TEST(BpfLink, ProbeForPerfLinksGetsEbadf) {
  Bench bench;
  const int program = bench.program();
  EXPECT_EQ(bench.ask(requests::link_create(program, -1)).value, -EBADF);
  EXPECT_EQ(bench.ask(requests::link_create(program, program)).value, -EBADF);
  EXPECT_EQ(bench.ask(requests::link_create(program, 0)).value, -EBADF);
  ::close(program);
}

TEST(BpfLink, SecondProgramAtOneEventIsEexist) {
  Bench bench;
  const int program = bench.program();
  const int event = bench.event();
  const int link = Bench::keep(bench.ask(requests::link_create(program, event)));
  ASSERT_GE(link, 0);
  EXPECT_EQ(bench.ask(requests::link_create(program, event)).value, -EEXIST);
  EXPECT_EQ(bench.ask(requests::perf_ioctl(PERF_EVENT_IOC_SET_BPF, event, program)).value, -EEXIST);
  ASSERT_EQ(bench.ask(requests::perf_ioctl(PERF_EVENT_IOC_ENABLE, event)).value, 0);
  EXPECT_EQ(bench.record->armed.size(), 1U);  // the refused ones took nothing away
  for (const int fd : {program, event, link}) {
    ::close(fd);
  }
}

TEST(PerfEvent, OpenChecksFileOffsetAndProcess) {
  Bench bench;
  EXPECT_EQ(bench.ask(requests::perf_open("/bin/sh", 1ULL << 40, -1)).value, -EINVAL);
  EXPECT_EQ(bench.ask(requests::perf_open("/tmp", 0, -1)).value, -EINVAL);
  EXPECT_EQ(bench.ask(requests::perf_open("/bin/sh", 0, 0x3fffffff)).value, -ESRCH);
  Request other = requests::perf_open("/bin/sh", 0, -1);
  other.attr[0] = std::byte{1};  // PERF_TYPE_SOFTWARE
  EXPECT_EQ(bench.ask(std::move(other)).value, -ENOENT);
}

TEST(PerfEvent, EnableAndDisableArmAndDisarm) {
  Bench bench;
  const int program = bench.program();
  const int event = bench.event();
  const int link = Bench::keep(bench.ask(requests::link_create(program, event)));
  EXPECT_TRUE(bench.session->wanted_links().empty());
  EXPECT_EQ(bench.ask(requests::perf_ioctl(PERF_EVENT_IOC_ENABLE, event)).value, 0);
  EXPECT_EQ(bench.record->armed.size(), 1U);
  EXPECT_EQ(bench.ask(requests::perf_ioctl(PERF_EVENT_IOC_DISABLE, event)).value, 0);
  EXPECT_TRUE(bench.record->armed.empty());
  EXPECT_EQ(bench.ask(requests::perf_ioctl(0x2499, event)).value, -ENOTTY);
  EXPECT_EQ(bench.ask(requests::perf_ioctl(PERF_EVENT_IOC_ENABLE, program)).value, -ENOTTY);
  for (const int fd : {program, event, link}) {
    ::close(fd);
  }
}

TEST(PerfEvent, AProbeOfAProcessBringsTheAgentIn) {
  Bench bench;
  const int program = bench.program();
  const int event = bench.event(::getpid());
  ASSERT_GE(event, 0);
  const int link = Bench::keep(bench.ask(requests::link_create(program, event)));
  EXPECT_TRUE(bench.record->attached.empty());
  ASSERT_EQ(bench.ask(requests::perf_ioctl(PERF_EVENT_IOC_ENABLE, event)).value, 0);
  ASSERT_EQ(bench.record->attached.size(), 1U);
  EXPECT_EQ(bench.record->attached[0], ::getpid());
  for (const int fd : {program, event, link}) {
    ::close(fd);
  }
}

TEST(PerfEvent, TheAgentLeavesWithTheLastProbeThatBroughtIt) {
  Bench bench;
  const int program = bench.program();
  const int event = bench.event(::getpid(), false);
  const int link = Bench::keep(bench.ask(requests::link_create(program, event)));
  EXPECT_EQ(bench.record->targets.count(::getpid()), 1U);
  ::close(link);
  bench.settle();
  EXPECT_EQ(bench.record->targets.count(::getpid()), 1U);  // the event may get another program
  ::close(event);
  bench.settle();
  EXPECT_TRUE(bench.record->targets.empty());
  ::close(program);
}

TEST(PerfEvent, TheAgentStaysWhereItWasAskedFor) {
  Bench bench;
  Request attach;
  attach.kind = MessageKind::kAttach;
  attach.args[0] = ::getpid();
  ASSERT_EQ(bench.ask(std::move(attach)).value, 0);
  const int program = bench.program();
  const int event = bench.event(::getpid(), false);
  const int link = Bench::keep(bench.ask(requests::link_create(program, event)));
  for (const int fd : {program, event, link}) {
    ::close(fd);
  }
  bench.settle();
  EXPECT_EQ(bench.record->targets.count(::getpid()), 1U);
}

TEST(PerfEvent, AProbeOfAProcessStaysOutsideWithNoAttach) {
  Bench bench;
  bench.caller.no_attach = true;
  const int program = bench.program();
  const int event = bench.event(::getpid(), false);
  const int link = Bench::keep(bench.ask(requests::link_create(program, event)));
  ASSERT_GE(link, 0);
  EXPECT_TRUE(bench.record->attached.empty());
  EXPECT_EQ(bench.record->armed.size(), 1U);
  for (const int fd : {program, event, link}) {
    ::close(fd);
  }
}

TEST(PerfEvent, AProcessThatCannotBeAttachedIsTheErrnoOfEnable) {
  Bench bench;
  bench.record->attach_error = EBUSY;
  const int program = bench.program();
  const int event = bench.event(::getpid());
  const int link = Bench::keep(bench.ask(requests::link_create(program, event)));
  EXPECT_EQ(bench.ask(requests::perf_ioctl(PERF_EVENT_IOC_ENABLE, event)).value, -EBUSY);
  EXPECT_TRUE(bench.session->wanted_links().empty());
  for (const int fd : {program, event, link}) {
    ::close(fd);
  }
}

TEST(Session, ADisarmedLinkIsWantedNoMoreUntilItIsEnabledAgain) {
  Bench bench;
  const int program = bench.program();
  const int event = bench.event(-1, false);
  const int link = Bench::keep(bench.ask(requests::link_create(program, event)));
  ASSERT_EQ(bench.record->armed.size(), 1U);
  bench.session->link_disarmed(bench.record->armed[0].id, 1, kHitFault);
  bench.settle();
  EXPECT_TRUE(bench.record->armed.empty());
  EXPECT_EQ(bench.ask(requests::perf_ioctl(PERF_EVENT_IOC_ENABLE, event)).value, 0);
  EXPECT_EQ(bench.record->armed.size(), 1U);
  for (const int fd : {program, event, link}) {
    ::close(fd);
  }
}

TEST(BpfIds, WalkAndOpenById) {
  Bench bench;
  const int first = bench.map();
  const int second = bench.map();
  bpf_attr attr = requests::zero_attr();
  Reply reply = bench.ask(requests::bpf(BPF_MAP_GET_NEXT_ID, attr));
  uint32_t id = 0;
  ASSERT_EQ(reply.output.size(), sizeof(id));
  std::memcpy(&id, reply.output.data(), sizeof(id));
  EXPECT_EQ(id, 1U);
  ::close(first);
  bench.settle();
  attr.map_id = 1;
  EXPECT_EQ(bench.ask(requests::bpf(BPF_MAP_GET_FD_BY_ID, attr)).value, -ENOENT);
  attr.map_id = 2;
  const int again = Bench::keep(bench.ask(requests::bpf(BPF_MAP_GET_FD_BY_ID, attr)));
  EXPECT_GE(again, 0);
  attr = requests::zero_attr();
  attr.start_id = 2;
  EXPECT_EQ(bench.ask(requests::bpf(BPF_MAP_GET_NEXT_ID, attr)).value, -ENOENT);
  ::close(second);
  ::close(again);
}

TEST(BpfInfo, IsCutToTheCallersSizeAndRefusesUnknownTails) {
  Bench bench;
  const int map = bench.map();
  const auto ask = [&](uint32_t length, std::byte fill) {
    bpf_attr attr = requests::zero_attr();
    attr.info.bpf_fd = static_cast<uint32_t>(map);
    attr.info.info_len = length;
    Request request = requests::bpf(BPF_OBJ_GET_INFO_BY_FD, attr);
    request.refs.push_back(ref_to(map));
    requests::add_payload(&request, offsetof(bpf_attr, info.info),
                          std::vector<std::byte>(length, fill));
    return bench.ask(std::move(request));
  };
  Reply reply = ask(sizeof(bpf_map_info), std::byte{0});
  InfoOutput head{};
  bpf_map_info info{};
  ASSERT_EQ(reply.output.size(), sizeof(head) + sizeof(info));
  std::memcpy(&info, reply.output.data() + sizeof(head), sizeof(info));
  EXPECT_EQ(info.type, uint32_t{BPF_MAP_TYPE_ARRAY});
  EXPECT_STREQ(info.name, "counts");
  reply = ask(8, std::byte{0});
  ASSERT_EQ(reply.output.size(), sizeof(head) + 8);
  std::memcpy(&head, reply.output.data(), sizeof(head));
  EXPECT_EQ(head.info_bytes, 8U);
  EXPECT_EQ(ask(sizeof(bpf_map_info) + 8, std::byte{1}).value, -E2BIG);
  ::close(map);
}

TEST(BpfInfo, InfoOfAProgramGivesItsCode) {
  Bench bench;
  const int program = bench.program();
  bpf_prog_info info{};
  info.jited_prog_insns = 0x1000;
  info.jited_prog_len = 1;
  info.nr_jited_ksyms = 1;
  info.jited_ksyms = 0x2000;
  bpf_attr attr = requests::zero_attr();
  attr.info.bpf_fd = static_cast<uint32_t>(program);
  attr.info.info_len = sizeof(info);
  Request request = requests::bpf(BPF_OBJ_GET_INFO_BY_FD, attr);
  request.refs.push_back(ref_to(program));
  requests::add_payload(&request, offsetof(bpf_attr, info.info), bytes_of(&info, 1));
  const Reply reply = bench.ask(std::move(request));
  struct {
    InfoOutput head;
    bpf_prog_info info;
    InfoPiece code;
    uint8_t code_bytes[8];
    InfoPiece symbols;
    uint64_t symbol;
  } output;
  ASSERT_EQ(reply.output.size(), sizeof(output));
  std::memcpy(&output, reply.output.data(), sizeof(output));
  EXPECT_EQ(output.head.pieces, 2U);
  EXPECT_EQ(output.info.jited_prog_len, 1U);
  EXPECT_EQ(output.code.address, 0x1000U);
  EXPECT_EQ(output.code_bytes[0], 0xc3);  // what the fake compiler made
  EXPECT_EQ(output.symbols.address, 0x2000U);
  EXPECT_EQ(output.symbol, 0U);
  ::close(program);
}

TEST(BpfBtf, LoadTakesWholeBtfAndRefusesTheRest) {
  Bench bench;
  struct {
    uint16_t magic = 0xeb9f;
    uint8_t version = 1, flags = 0;
    uint32_t hdr_len = 24, type_off = 0, type_len = 16, str_off = 16, str_len = 5;
    uint32_t name = 1, info = 1U << 24, size = 4, int_data = 32;
    char strings[8] = {0, 'i', 'n', 't', 0, 0, 0, 0};
  } btf;
  const auto load = [&](uint32_t size) {
    bpf_attr attr = requests::zero_attr();
    attr.btf_size = size;
    Request request = requests::bpf(BPF_BTF_LOAD, attr);
    auto bytes = bytes_of(&btf, 1);
    bytes.resize(size);
    requests::add_payload(&request, offsetof(bpf_attr, btf), std::move(bytes));
    return Bench::keep(bench.ask(std::move(request)));
  };
  const int fd = load(24 + 16 + 5);
  EXPECT_GE(fd, 0);
  ::close(fd);
  EXPECT_EQ(load(24 + 16 + 4), -EINVAL);
  btf.info = 31U << 24;
  EXPECT_EQ(load(24 + 16 + 5), -EINVAL);
  btf.info = 1U << 24;
  btf.type_len = 0xfffffff0;
  EXPECT_EQ(load(24 + 16 + 5), -EINVAL);
}

}  // namespace
}  // namespace bpftime
