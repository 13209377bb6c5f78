// Connections: hostile packets end their own connection only, the broker leaves when nothing uses
// it, one broker lives in a directory, and its death is seen in the alive word.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "broker/alive_page.hpp"
#include "broker/fake_targets.hpp"
#include "broker/place.hpp"
#include "spec/kernel_types.hpp"
#include "spec/newer.hpp"

namespace bpftime {
namespace {

// A directory of our own, removed with what a broker may have left there.
struct Directory {
  Directory() {
    char name[] = "/tmp/bpftime-test-XXXXXX";
    path = ::mkdtemp(name);
  }
  ~Directory() {
    for (const char* file : {"/lock", "/broker.sock", "/broker.log", "/broker.log.old"}) {
      ::unlink((path + file).c_str());
    }
    ::rmdir(path.c_str());
  }
  std::string path;
};

// A broker in a process of its own, so that the test may block as a loader does.
class ForkedBroker {
 public:
  explicit ForkedBroker(const std::string& directory, int idle_ms = 60'000) {
    int ready[2];
    EXPECT_EQ(::pipe(ready), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(ready[0]);
      ::_exit(serve(directory, idle_ms, ready[1]));
    }
    ::close(ready[1]);
    char byte = 0;
    started_ = ::read(ready[0], &byte, 1) == 1;
    ::close(ready[0]);
  }
  ~ForkedBroker() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }
  ForkedBroker(const ForkedBroker&) = delete;
  ForkedBroker& operator=(const ForkedBroker&) = delete;
  int wait() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] bool started() const { return started_; }

 private:
  static int serve(const std::string& directory, int idle_ms, int ready) {
    auto place = Place::take(directory);
    if (!place) {
      return place.error().code;
    }
    auto loop = std::move(EventLoop::create().value());
    Session session(loop.get(), Session::Config{2, 8, {}, {}},
                    std::make_unique<WorkerCompiler>(loop.get(), WorkerCompiler::Limits{}));
    session.set_targets(
        std::make_unique<FakeTargets>(&session, std::make_shared<FakeTargets::Record>()));
    Server server(loop.get(), &session, Server::Config{::geteuid(), idle_ms, 2, 8, 64});
    if (!server.serve(place->listener()) || ::write(ready, "", 1) != 1) {
      return 1;
    }
    ::close(ready);
    loop->run();
    return 0;
  }
  pid_t pid_ = 0;
  bool started_ = false;
};

struct Loader {
  UniqueFd channel;
  uint64_t serial = 1;
  explicit Loader(const std::string& directory, Role role = Role::kLoader) {
    auto fd = connect_to(directory + "/" + kSocketName);
    if (!fd) {
      return;
    }
    channel = std::move(fd).value();
    Request hello;
    hello.args[0] = static_cast<int64_t>(role);
    EXPECT_EQ(ask(std::move(hello)).value, 0);
  }
  Reply ask(Request&& request) {
    request.serial = serial++;
    auto reply = call(channel.get(), request, 20'000);
    if (!reply) {
      Reply failed;
      failed.value = -1000 - reply.error().code;
      return failed;
    }
    return std::move(reply).value();
  }
  // The broker closed it.
  bool ended() {
    auto packet = receive_packet(channel.get(), 10'000);
    return !packet && packet.error().code == EPIPE;
  }
};

TEST(Server, AnswersALoaderAndKnowsItsObjects) {
  Directory directory;
  ForkedBroker broker(directory.path);
  ASSERT_TRUE(broker.started());
  Loader loader(directory.path);
  Reply map = loader.ask(requests::map_create(BPF_MAP_TYPE_HASH, 4, 8, 100));
  ASSERT_EQ(map.value, 0);
  ASSERT_TRUE(map.fd);
  const Reply program = loader.ask(requests::prog_load(BPF_PROG_TYPE_KPROBE, return_zero()));
  EXPECT_EQ(program.value, 0);  // by a real worker, of the real compiler
  EXPECT_TRUE(program.fd);
}

TEST(Server, AHostilePacketEndsItsConnectionOnly) {
  Directory directory;
  ForkedBroker broker(directory.path);
  ASSERT_TRUE(broker.started());
  Loader good(directory.path);
  const std::function<void(int)> attacks[] = {
      [](int fd) { ::send(fd, "x", 1, 0); },
      [](int fd) {
        MessageHeader header{1000, MessageKind::kBpf, kMessageVersion, 1};
        ::send(fd, &header, sizeof(header), 0);
      },
      [](int fd) {
        struct {
          MessageHeader header{};
          RequestHead head{};
        } packet;
        packet.header = {sizeof(packet), MessageKind::kBpf, kMessageVersion, 1};
        packet.head.ref_count = 0xffffffff;
        ::send(fd, &packet, sizeof(packet), 0);
      },
      [](int fd) {
        struct {
          MessageHeader header{};
          RequestHead head{};
        } packet;
        packet.header = {sizeof(packet), MessageKind::kReply, kMessageVersion, 1};
        ::send(fd, &packet, sizeof(packet), 0);
      },
      [](int fd) {
        for (int i = 0; i < 100; i++) {
          Request request;
          request.kind = MessageKind::kStatus;
          request.serial = static_cast<uint64_t>(i);
          if (!send_request(fd, request, 0)) {
            break;
          }
        }
        ::shutdown(fd, SHUT_WR);
        while (receive_packet(fd, 10'000)) {
        }
      },
  };
  for (const auto& attack : attacks) {
    Loader bad(directory.path);
    attack(bad.channel.get());
    EXPECT_TRUE(bad.ended());
    EXPECT_EQ(good.ask(requests::map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1)).value, 0);
  }
  EXPECT_EQ(::waitpid(broker.pid(), nullptr, WNOHANG), 0);
}

TEST(Server, ARequestBeforeHelloEndsTheConnection) {
  Directory directory;
  ForkedBroker broker(directory.path);
  ASSERT_TRUE(broker.started());
  Loader loader("");
  loader.channel = std::move(connect_to(directory.path + "/" + kSocketName).value());
  EXPECT_EQ(loader.ask(requests::map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1)).value, -1000 - EPIPE);
}

TEST(Server, ADeadLoadersObjectsGo) {
  Directory directory;
  ForkedBroker broker(directory.path);
  ASSERT_TRUE(broker.started());
  int made[2];
  ASSERT_EQ(::pipe(made), 0);
  const pid_t loader = ::fork();
  if (loader == 0) {
    Loader self(directory.path);
    Reply map = self.ask(requests::map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1));
    if (map.value == 0 && ::write(made[1], "", 1) == 1) {
      ::pause();
    }
    ::_exit(1);
  }
  char byte;
  ASSERT_EQ(::read(made[0], &byte, 1), 1);
  Loader other(directory.path);
  const auto next = [&] {
    return other.ask(requests::bpf(BPF_MAP_GET_NEXT_ID, requests::zero_attr())).value;
  };
  EXPECT_EQ(next(), 0);
  ::kill(loader, SIGKILL);
  ::waitpid(loader, nullptr, 0);
  EXPECT_EQ(next(), -ENOENT);
  ::close(made[0]);
  ::close(made[1]);
}

// As long as a broker stays that nobody uses any more.
void let_idle_time_pass(int idle_ms) {
  Directory directory;
  ForkedBroker unused(directory.path, idle_ms);
  ASSERT_TRUE(unused.started());
  {
    const Loader only(directory.path);
  }
  EXPECT_EQ(unused.wait(), 0);
}

TEST(Server, WaitsForWhoStartedItLongerThanWhenIdle) {
  Directory directory;
  ForkedBroker fresh(directory.path, 1);
  ASSERT_TRUE(fresh.started());
  let_idle_time_pass(50);
  Loader first(directory.path);
  EXPECT_EQ(first.ask(requests::map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1)).value, 0);
}

TEST(Server, LeavesWhenNothingUsesIt) {
  Directory directory;
  ForkedBroker broker(directory.path, 50);
  ASSERT_TRUE(broker.started());
  {
    Loader loader(directory.path);
    const Reply map = loader.ask(requests::map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1));
    loader.channel.reset();
    let_idle_time_pass(50);
    EXPECT_EQ(::waitpid(broker.pid(), nullptr, WNOHANG), 0);
  }
  EXPECT_EQ(broker.wait(), 0);
  EXPECT_NE(::access((directory.path + "/broker.sock").c_str(), F_OK), 0);
  EXPECT_NE(::access((directory.path + "/lock").c_str(), F_OK), 0);
}

TEST(Server, StaysForAnAnnouncedProcess) {
  Directory directory;
  ForkedBroker broker(directory.path, 50);
  ASSERT_TRUE(broker.started());
  int done[2];
  ASSERT_EQ(::pipe(done), 0);
  const pid_t tool = ::fork();
  if (tool == 0) {
    {
      Loader self(directory.path, Role::kCommand);
      Request options;
      options.kind = MessageKind::kOptions;
      options.args[0] = static_cast<int64_t>(kOptionNoAttach);
      if (self.ask(std::move(options)).value != 0 || ::write(done[1], "", 1) != 1) {
        ::_exit(1);
      }
    }
    ::pause();
    ::_exit(0);
  }
  char byte;
  ASSERT_EQ(::read(done[0], &byte, 1), 1);
  let_idle_time_pass(50);
  EXPECT_EQ(::waitpid(broker.pid(), nullptr, WNOHANG), 0);
  ::kill(tool, SIGKILL);
  ::waitpid(tool, nullptr, 0);
  EXPECT_EQ(broker.wait(), 0);
  ::close(done[0]);
  ::close(done[1]);
}

TEST(Server, OptionsThatMakeNoSenseAreRefused) {
  Directory directory;
  ForkedBroker broker(directory.path);
  Loader command(directory.path, Role::kCommand);
  for (const uint64_t options :
       {kKnownOptions + 1, uint64_t{1} << 63, kOptionVerifierKernel | kOptionVerifierBoth}) {
    Request announce;
    announce.kind = MessageKind::kOptions;
    announce.args[0] = static_cast<int64_t>(options);
    EXPECT_EQ(command.ask(std::move(announce)).value, -EINVAL) << options;
  }
}

// How many targets there are after a loader, whose parent announced `options`, armed a probe of
// itself.
int64_t targets_after_a_probe(uint64_t options) {
  Directory directory;
  ForkedBroker broker(directory.path);
  const pid_t tool = ::fork();
  if (tool == 0) {
    Request announce;
    announce.kind = MessageKind::kOptions;
    announce.args[0] = static_cast<int64_t>(options);
    if (Loader(directory.path, Role::kCommand).ask(std::move(announce)).value != 0) {
      ::_exit(100);
    }
    const pid_t loader = ::fork();  // a shell's child, say
    if (loader == 0) {
      Loader self(directory.path);
      const Reply program = self.ask(requests::prog_load(BPF_PROG_TYPE_KPROBE, return_zero()));
      const Reply event = self.ask(requests::perf_open("/bin/sh", 64, ::getpid(), false));
      if (!program.fd || !event.fd ||
          self.ask(requests::perf_ioctl(PERF_EVENT_IOC_SET_BPF, event.fd.get(), program.fd.get()))
                  .value != 0) {
        ::_exit(101);
      }
      Request detach;
      detach.kind = MessageKind::kDetach;
      ::_exit(static_cast<int>(self.ask(std::move(detach)).value));
    }
    int status = 0;
    ::waitpid(loader, &status, 0);
    ::_exit(WEXITSTATUS(status));
  }
  int status = 0;
  ::waitpid(tool, &status, 0);
  return WEXITSTATUS(status);
}

TEST(Server, OptionsHoldForAProcessAndItsChildren) {
  EXPECT_EQ(targets_after_a_probe(0), 1);
  EXPECT_EQ(targets_after_a_probe(kOptionNoAttach), 0);
}

TEST(Server, OutOfFdsIsAnErrnoForALoaderAndNothingElse) {
  Directory directory;
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  rlimit small = before;
  small.rlim_cur = 64;
  ::setrlimit(RLIMIT_NOFILE, &small);
  ForkedBroker broker(directory.path);
  ::setrlimit(RLIMIT_NOFILE, &before);
  ASSERT_TRUE(broker.started());
  Loader loader(directory.path);
  std::vector<Reply> maps;
  int64_t value = 0;
  while (value == 0 && maps.size() < 100) {
    maps.push_back(loader.ask(requests::map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1)));
    value = maps.back().value;
  }
  EXPECT_EQ(value, -EMFILE);
  auto waiting = connect_to(directory.path + "/" + kSocketName);
  ASSERT_TRUE(waiting.has_value());
  maps.clear();
  Request hello;
  hello.args[0] = static_cast<int64_t>(Role::kCommand);
  auto greeted = call(waiting->get(), hello, 10'000);
  EXPECT_TRUE(greeted.has_value());  // once there was room again
}

TEST(Server, ShutdownEndsIt) {
  Directory directory;
  ForkedBroker broker(directory.path);
  ASSERT_TRUE(broker.started());
  Loader loader(directory.path);
  const Reply map = loader.ask(requests::map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1));
  Loader command(directory.path, Role::kCommand);
  Request request;
  request.kind = MessageKind::kShutdown;
  EXPECT_EQ(command.ask(std::move(request)).value, 0);
  EXPECT_EQ(broker.wait(), 0);
  char byte;
  EXPECT_EQ(::recv(map.fd.get(), &byte, 1, 0), 0);  // the loader's fd is a dead end now
}

TEST(Place, ASecondBrokerIsRefused) {
  Directory directory;
  ForkedBroker first(directory.path);
  ASSERT_TRUE(first.started());
  ForkedBroker second(directory.path);
  EXPECT_FALSE(second.started());
  EXPECT_EQ(second.wait(), EALREADY);
  Loader loader(directory.path);
  EXPECT_TRUE(loader.channel);
}

TEST(Place, AKilledBrokersPlaceIsTakenOver) {
  Directory directory;
  {
    ForkedBroker first(directory.path);
    ASSERT_TRUE(first.started());
    ::kill(first.pid(), SIGKILL);
    EXPECT_EQ(first.wait(), -SIGKILL);
  }
  EXPECT_EQ(::access((directory.path + "/broker.sock").c_str(), F_OK), 0);
  ForkedBroker second(directory.path);
  ASSERT_TRUE(second.started());
  Loader loader(directory.path);
  EXPECT_EQ(loader.ask(requests::map_create(BPF_MAP_TYPE_ARRAY, 4, 8, 1)).value, 0);
}

TEST(Place, ADirectoryThatOthersMayEnterIsRefused) {
  Directory directory;
  ::chmod(directory.path.c_str(), 0755);
  auto place = Place::take(directory.path);
  ASSERT_FALSE(place.has_value());
  EXPECT_EQ(place.error().code, EPERM);
}

TEST(AliveWord, ChangesWhenItsProcessIsKilled) {
  int channel[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel), 0);
  const pid_t broker = ::fork();
  if (broker == 0) {
    auto alive = AliveWord::create();
    const int fd = alive ? alive->fd() : -1;
    const uint32_t expected = alive ? alive->expected() : 0;
    if (alive &&
        send_packet(channel[1], MessageKind::kReply, expected, {}, std::span(&fd, 1), 1000)) {
      ::pause();
    }
    ::_exit(1);
  }
  auto packet = receive_packet(channel[0], 10'000);
  ASSERT_TRUE(packet.has_value());
  ASSERT_EQ(packet->fds.size(), 1U);
  const int file = packet->fds[0].get();
  EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0), MAP_FAILED);
  void* page = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, file, 0);
  ASSERT_NE(page, MAP_FAILED);
  const auto& word = static_cast<const AlivePage*>(page)->word;
  EXPECT_EQ(word.load(), packet->header.serial);
  EXPECT_EQ(word.load(), static_cast<uint32_t>(broker));
  ::kill(broker, SIGKILL);
  ::waitpid(broker, nullptr, 0);
  EXPECT_NE(word.load(), packet->header.serial);
  ::munmap(page, 4096);
  ::close(channel[0]);
  ::close(channel[1]);
}

TEST(AliveWord, SurvivesTheDeathOfAForkedWorker) {
  auto alive = AliveWord::create();
  ASSERT_TRUE(alive.has_value());
  const pid_t worker = ::fork();
  if (worker == 0) {
    ::_exit(0);
  }
  ::waitpid(worker, nullptr, 0);
  void* page = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, alive->fd(), 0);
  ASSERT_NE(page, MAP_FAILED);
  EXPECT_EQ(static_cast<const AlivePage*>(page)->word.load(), alive->expected());
  ::munmap(page, 4096);
}

std::shared_ptr<const ProgramTask> task_of(const std::vector<bpf_insn>& insns) {
  auto task = std::make_shared<ProgramTask>();
  task->program = std::move(decode(insns).value());
  task->prog_type = BPF_PROG_TYPE_KPROBE;
  task->log_level = 1;
  task->log_bytes = 4096;
  return task;
}

TEST(WorkerCompiler, RefusesWhatIsNotSafe) {
  auto loop = std::move(EventLoop::create().value());
  WorkerCompiler compiler(loop.get(), {});
  std::vector<bpf_insn> insns = return_zero();
  insns[0] = insn(BPF_LDX | BPF_MEM | BPF_DW, 0, 0, 0, 0);  // r0 = *r0
  compiler.compile(task_of(insns), [&](Result<ProgramAnswer> answer) {
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->judgement.error, EACCES);
    EXPECT_NE(answer->judgement.log.find("R0 !read_ok"), std::string::npos);
    EXPECT_TRUE(answer->compiled.code.empty());
    loop->stop();
  });
  loop->run();
}

TEST(WorkerCompiler, LetsThroughWhatItIsToldTo) {
  auto loop = std::move(EventLoop::create().value());
  WorkerCompiler compiler(loop.get(), {});
  std::vector<bpf_insn> insns = return_zero();
  insns[0] = insn(BPF_LDX | BPF_MEM | BPF_DW, 0, 1, 200, 0);  // beyond pt_regs
  auto task = std::make_shared<ProgramTask>(*task_of(insns));
  task->let_through = true;
  compiler.compile(task, [&](Result<ProgramAnswer> answer) {
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->judgement.error, EACCES);
    EXPECT_FALSE(answer->compiled.code.empty());
    loop->stop();
  });
  loop->run();
}

// A loader that sees no kernel BTF names functions by the ids of ours; they are not those of the kernel's.
TEST(WorkerCompiler, FunctionsOfSessionsByOurOwnTypes) {
  const auto types = Btf::parse({kernel_types().begin(), kernel_types().end()});
  ASSERT_TRUE(types.has_value());
  const auto id_of = [&](std::string_view name) {
    for (uint32_t id = 1; types->type(id).has_value(); id++) {
      if (types->type(id)->kind == BtfKind::kFunc && types->type(id)->name == name) {
        return static_cast<int32_t>(id);
      }
    }
    return -1;
  };
  const std::vector<bpf_insn> insns = {
      insn(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, id_of("bpf_session_cookie")),
      insn(BPF_LDX | BPF_MEM | BPF_DW, 0, 0, 0, 0),
      insn(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, id_of("bpf_session_is_return")),
      insn(BPF_ALU64 | BPF_AND | BPF_K, 0, 0, 0, 1), insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)};
  auto loop = std::move(EventLoop::create().value());
  WorkerCompiler compiler(loop.get(), {});
  for (const uint32_t expected : {kTraceUprobeSession, kTraceUprobeMulti}) {
    auto task = std::make_shared<ProgramTask>(*task_of(insns));
    task->expected_attach_type = expected;
    compiler.compile(task, [&](Result<ProgramAnswer> answer) {
      ASSERT_TRUE(answer.has_value());
      const bool is_session = expected == kTraceUprobeSession;
      EXPECT_EQ(answer->judgement.error, is_session ? 0 : EACCES) << answer->judgement.log;
      const auto& slots = answer->compiled.slots;
      EXPECT_EQ(slots.size(), is_session ? 2U : 0U);
      EXPECT_TRUE(slots.empty() || slots[0].id == kKfuncSessionCookie);
      loop->stop();
    });
    loop->run();
  }
}

TEST(WorkerCompiler, CompilesInAProcessOfItsOwn) {
  auto loop = std::move(EventLoop::create().value());
  WorkerCompiler compiler(loop.get(), {});
  const auto task = task_of(return_zero());
  int answers = 0;
  for (int i = 0; i < 10; i++) {
    compiler.compile(task, [&](Result<ProgramAnswer> answer) {
      EXPECT_TRUE(answer.has_value());
      if (answer) {
        EXPECT_EQ(answer->judgement.error, 0);
        EXPECT_FALSE(answer->compiled.code.empty());
      }
      if (++answers == 10) {
        loop->stop();
      }
    });
  }
  loop->run();
  EXPECT_EQ(answers, 10);
}

int error_of(const WorkerCompiler::Limits& limits) {
  auto loop = std::move(EventLoop::create().value());
  WorkerCompiler compiler(loop.get(), limits);
  int code = 0;
  compiler.compile(task_of(return_zero()), [&](Result<ProgramAnswer> answer) {
    code = answer ? 0 : answer.error().code;
    loop->stop();
  });
  loop->run();
  return code;
}

TEST(WorkerCompiler, ACrashOrAHangCostsOneRequest) {
  WorkerCompiler::Limits limits;
  limits.crash_for_tests = true;
  EXPECT_EQ(error_of(limits), ENOMEM);
  limits = {};
  limits.nap_for_tests_ms = 60'000;
  limits.deadline_ms = 20;
  EXPECT_EQ(error_of(limits), ETIMEDOUT);
}

TEST(ParseAnswer, BelievesNothing) {
  ProgramAnswer answer;
  answer.judgement.log = "processed 2 insns\n";
  CompiledProgram& compiled = answer.compiled;
  compiled.code.resize(16);
  compiled.slots.push_back({SlotKind::kMap, 1, 0});
  compiled.faults.push_back({0, 16, 8});
  const auto bytes = serialize(answer);
  ASSERT_TRUE(parse_answer(bytes).has_value());
  for (size_t cut = 0; cut < bytes.size(); cut++) {
    EXPECT_FALSE(parse_answer(std::span(bytes).first(cut)).has_value());
  }
  compiled.faults[0].resume_at = 16;
  EXPECT_FALSE(parse_answer(serialize(answer)).has_value());
}

AgentMessage message(const char* text) {
  AgentMessage m{};
  m.says = AgentSays::kPrintk;
  m.tid = 42;
  m.time_ns = 12'345'678'901'234;
  std::strcpy(m.comm, "bash");
  std::strcpy(m.text, text);
  m.text_bytes = static_cast<uint32_t>(std::strlen(text));
  return m;
}

TEST(Printk, LinesLookLikeTheKernels) {
  EXPECT_EQ(printk_line(message("hello\n")),
            "            bash-42      [000] ..... 12345.678901: bpf_trace_printk: hello\n");
  AgentMessage hostile = message("\x1b[2J");
  hostile.text_bytes = 0xffffffff;
  std::memset(hostile.comm, 'x', sizeof(hostile.comm));
  EXPECT_EQ(printk_line(hostile),
            "xxxxxxxxxxxxxxxx-42      [000] ..... 12345.678901: bpf_trace_printk: ?[2J\n");
}

std::string read_now(int fd) {
  std::string text;
  char buffer[4096];
  pollfd polled{fd, POLLIN, 0};
  while (::poll(&polled, 1, 0) == 1 && (polled.revents & POLLIN) != 0) {
    const ssize_t n = ::read(fd, buffer, sizeof(buffer));
    if (n <= 0) {
      break;
    }
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

TEST(Printk, ATracePipeConsumesAndAFollowerSeesAll) {
  auto loop = std::move(EventLoop::create().value());
  PrintkLog log(loop.get());
  log.add("one\n");
  auto pipe = log.follow(true);
  EXPECT_EQ(read_now(pipe->get()), "one\n");
  log.add("two\n");
  EXPECT_EQ(read_now(pipe->get()), "two\n");
  auto second = log.follow(true);
  EXPECT_EQ(read_now(second->get()), "");
  auto follower = log.follow(false);
  EXPECT_EQ(read_now(follower->get()), "one\ntwo\n");
}

TEST(Printk, ASlowReaderIsToldWhatItLost) {
  auto loop = std::move(EventLoop::create().value());
  PrintkLog log(loop.get());
  auto slow = log.follow(false);
  const std::string line(1023, 'x');
  for (int i = 0; i < 5000; i++) {
    log.add(line + "\n");
  }
  read_now(slow->get());
  log.add("end\n");
  const std::string last = read_now(slow->get());
  EXPECT_NE(last.find(" lines lost\nend\n"), std::string::npos);
}

}  // namespace
}  // namespace bpftime
