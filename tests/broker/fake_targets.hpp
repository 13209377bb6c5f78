// A TargetControl that remembers what it was asked, and a Loader that talks to a Server as a shim
// does.
#pragma once
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "broker/server.hpp"
#include "broker/session.hpp"
#include "broker/target_control.hpp"
#include "ipc/channel.hpp"

namespace bpftime {

class FakeTargets : public TargetControl {
 public:
  // What a test looks at; shared, because the session owns the fake itself.
  struct Record {
    std::vector<pid_t> attached;
    std::set<pid_t> targets;
    int syncs = 0;
    std::vector<WantedLink> armed;  // after the last sync
    int attach_error = 0, sync_error = 0;
    bool detached_all = false;
  };
  FakeTargets(TargetHost* host, std::shared_ptr<Record> record)
      : host_(host), record_(std::move(record)) {}
  Result<void> attach(pid_t pid) override {
    if (record_->attach_error != 0) {
      return make_error(record_->attach_error, "fake refusal");
    }
    record_->attached.push_back(pid);
    record_->targets.insert(pid);
    return {};
  }
  Result<void> attach_at_exec(pid_t pid, bool /*follows*/) override {
    record_->targets.insert(pid);
    return {};
  }
  Result<void> detach(pid_t pid) override {
    if (record_->targets.erase(pid) == 0) {
      return make_error(ESRCH, "not a target");
    }
    return {};
  }
  void detach_all() override {
    record_->detached_all = true;
    record_->targets.clear();
  }
  Result<void> sync(const LinkId* concerning) override {
    record_->syncs++;
    record_->armed = host_->wanted_links();
    if (concerning != nullptr && record_->sync_error != 0) {
      return make_error(record_->sync_error, "fake refusal");
    }
    for (const WantedLink& link : record_->armed) {
      // As the real ones do: what is wanted can be had.
      auto program = host_->program_for_target(link.program);
      if (!program) {
        return program.error();
      }
    }
    return {};
  }
  [[nodiscard]] bool has(pid_t pid) const override { return record_->targets.count(pid) != 0; }
  [[nodiscard]] size_t count() const override { return record_->targets.size(); }
  [[nodiscard]] std::vector<TargetStatus> status() override { return {}; }
  uint32_t recover_orphans() override { return 0; }

 private:
  TargetHost* host_;
  std::shared_ptr<Record> record_;
};

// Compiles to one `ret`: sessions are tested without an engine.
class FakeCompiler : public ProgramCompiler {
 public:
  void compile(std::shared_ptr<const ProgramTask> task, Done done) override {
    ProgramAnswer answer;
    answer.judgement = judge(*task, 10, task->log_level);
    if (answer.judgement.error == 0 || task->let_through) {
      answer.compiled.code.push_back(std::byte{0xc3});
    }
    done(std::move(answer));
  }
};

inline bpf_insn insn(uint8_t code, uint8_t dst, uint8_t src, int16_t off, int32_t imm) {
  bpf_insn i{};
  i.code = code;
  i.dst_reg = dst & 0xf;
  i.src_reg = src & 0xf;
  i.off = off;
  i.imm = imm;
  return i;
}
inline std::vector<bpf_insn> return_zero() {
  return {insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0), insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)};
}

template <class T>
std::vector<std::byte> bytes_of(const T* items, size_t count) {
  const auto* p = reinterpret_cast<const std::byte*>(items);
  return {p, p + sizeof(T) * count};
}

// How a shim names an fd.
inline ObjectRef ref_to(int fd) {
  ObjectRef ref{};
  ref.fd = fd;
  struct stat st{};
  if (::fstat(fd, &st) == 0) {
    ref.device = st.st_dev;
    ref.inode = st.st_ino;
  }
  return ref;
}

namespace requests {

inline Request bpf(uint32_t command, const bpf_attr& attr) {
  Request request;
  request.kind = MessageKind::kBpf;
  request.command = command;
  request.attr = bytes_of(&attr, 1);
  request.attr.resize(kAttrBytes);
  return request;
}
inline bpf_attr zero_attr() {
  bpf_attr attr;
  std::memset(&attr, 0, sizeof(attr));
  return attr;
}
inline Request map_create(uint32_t type, uint32_t key, uint32_t value, uint32_t entries,
                          uint32_t flags = 0) {
  bpf_attr attr = zero_attr();
  attr.map_type = type;
  attr.key_size = key;
  attr.value_size = value;
  attr.max_entries = entries;
  attr.map_flags = flags;
  std::strcpy(attr.map_name, "counts");
  return bpf(BPF_MAP_CREATE, attr);
}
inline void add_payload(Request* request, uint32_t tag, std::vector<std::byte> bytes) {
  RequestPayload payload;
  payload.tag = tag;
  payload.bytes = std::move(bytes);
  payload.size_bytes = payload.bytes.size();
  request->payloads.push_back(std::move(payload));
}
inline Request prog_load(uint32_t type, const std::vector<bpf_insn>& insns,
                         uint32_t log_bytes = 0) {
  bpf_attr attr = zero_attr();
  attr.prog_type = type;
  attr.insn_cnt = static_cast<uint32_t>(insns.size());
  std::strcpy(attr.prog_name, "probe");
  if (log_bytes != 0) {
    attr.log_level = 1;
    attr.log_size = log_bytes;
    attr.log_buf = 0x1000;
  }
  Request request = bpf(BPF_PROG_LOAD, attr);
  add_payload(&request, offsetof(bpf_attr, insns), bytes_of(insns.data(), insns.size()));
  add_payload(&request, offsetof(bpf_attr, license), bytes_of("GPL", 3));
  if (log_bytes != 0) {
    RequestPayload room;
    room.tag = offsetof(bpf_attr, log_buf);
    room.flags = kOutputWanted;
    room.size_bytes = log_bytes;
    request.payloads.push_back(std::move(room));
  }
  return request;
}
inline Request perf_open(const std::string& path, uint64_t offset, int64_t pid,
                         bool disabled = true, bool is_return = false) {
  perf_event_attr attr;
  std::memset(&attr, 0, sizeof(attr));
  attr.type = 8;
  attr.size = sizeof(attr);
  attr.config = is_return ? 1 : 0;
  attr.probe_offset = offset;
  attr.disabled = disabled ? 1 : 0;
  Request request;
  request.kind = MessageKind::kPerfOpen;
  request.attr = bytes_of(&attr, 1);
  request.args[0] = pid;
  request.args[1] = pid > 0 ? -1 : 0;
  request.args[2] = -1;
  request.args[3] = PERF_FLAG_FD_CLOEXEC;
  add_payload(&request, kPathTag, bytes_of(path.data(), path.size()));
  request.fds.emplace_back(::open(path.c_str(), O_PATH | O_CLOEXEC));
  return request;
}
inline Request perf_ioctl(uint32_t command, int event, int program = -1) {
  Request request;
  request.kind = MessageKind::kPerfIoctl;
  request.command = command;
  request.refs.push_back(ref_to(event));
  if (program >= 0) {
    request.refs.push_back(ref_to(program));
  }
  return request;
}
inline Request link_create(int program, int event, uint64_t cookie = 0) {
  bpf_attr attr = zero_attr();
  attr.link_create.prog_fd = static_cast<uint32_t>(program);
  attr.link_create.target_fd = static_cast<uint32_t>(event);
  attr.link_create.attach_type = BPF_PERF_EVENT;
  attr.link_create.perf_event.bpf_cookie = cookie;
  Request request = bpf(BPF_LINK_CREATE, attr);
  request.refs.push_back(ref_to(program));
  if (event >= 0) {
    request.refs.push_back(ref_to(event));
  }
  return request;
}

}  // namespace requests

// A session with a fake behind it, and no connection: requests are given directly.
class Bench {
 public:
  Bench() : Bench(Session::Config{2, 8, {}, {}}) {}
  explicit Bench(Session::Config config)
      : loop(std::move(EventLoop::create().value())),
        record(std::make_shared<FakeTargets::Record>()) {
    config.log = [this](const std::string& line) { log.push_back(line); };
    session =
        std::make_unique<Session>(loop.get(), std::move(config), std::make_unique<FakeCompiler>());
    session->set_targets(std::make_unique<FakeTargets>(session.get(), record));
    caller.key = 1;
    caller.pid = ::getpid();
    caller.uid = ::getuid();
    caller.owner = OwnerId{1};
  }
  // Precondition: the session answers at once (FakeCompiler does).
  Reply ask(Request&& request) {
    Reply got;
    got.value = INT64_MIN;
    session->handle(caller, std::move(request), [&](Reply&& reply) { got = std::move(reply); });
    return got;
  }
  // Lets the loop see what happened so far.
  // What is due by then runs, and what that makes due.
  void settle(int ms = 1) {
    loop->after(ms,
                [this] { loop->after(0, [this] { loop->after(0, [this] { loop->stop(); }); }); });
    loop->run();
  }
  int map(uint32_t flags = 0) {
    return keep(ask(requests::map_create(BPF_MAP_TYPE_ARRAY, 4, 32, 1, flags)));
  }
  int program(uint32_t type = BPF_PROG_TYPE_KPROBE) {
    return keep(ask(requests::prog_load(type, return_zero())));
  }
  int event(int64_t pid = -1, bool disabled = true) {
    return keep(ask(requests::perf_open("/bin/sh", 64, pid, disabled)));
  }
  // The caller closes it.
  static int keep(Reply&& reply) {
    return reply.value < 0 ? static_cast<int>(reply.value) : reply.fd.release();
  }

  std::unique_ptr<EventLoop> loop;
  std::shared_ptr<FakeTargets::Record> record;
  std::vector<std::string> log;
  std::unique_ptr<Session> session;
  Caller caller;
};

}  // namespace bpftime
