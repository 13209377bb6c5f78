#include "broker/session.hpp"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "broker/status_text.hpp"

namespace bpftime {

Session::Session(EventLoop* loop, Config config, std::unique_ptr<ProgramCompiler> compiler)
    : loop_(loop),
      config_(std::move(config)),
      printk_(loop),
      objects_(loop, [this] { objects_changed(); }),
      pins_(loop, config_.pins,
            [this](Pins::Gone gone) {
              for (const auto& object : gone) {
                if (object->pins == 0 && !objects_.is_referenced(*object)) {
                  object->reference_ended(0, true);
                }
              }
              gone.clear();
              objects_changed();
            }),
      compiler_(std::move(compiler)),
      test_runner_(loop, config_.lanes, [this](const AgentMessage& message) {
        if (message.says == AgentSays::kPrintk) {
          target_said_printk(static_cast<pid_t>(message.pid), message);
        } else if (message.says == AgentSays::kWake) {
          target_said_wake(MapId{static_cast<uint32_t>(message.value)});
        }
      }) {}

Session::~Session() {
  on_change_ = nullptr;
  shutting_down_ = true;
  if (sync_timer_ != 0) {
    loop_->cancel(sync_timer_);
  }
}

void Session::log(const std::string& line) {
  if (config_.log) {
    config_.log(line);
  }
}

bool Session::is_unused() const {
  return objects_.reference_count() == 0 && pins_.empty() && pending_.empty() &&
         printk_.reader_count() == 0 && (targets_ == nullptr || targets_->count() == 0);
}

void Session::shut_down() {
  shutting_down_ = true;
  if (targets_ != nullptr) {
    targets_->detach_all();
  }
  pins_.clear();
  objects_.end_all();
}

// ---- What targets ask ----

Result<MapForTarget> Session::map_for_target(MapId id) {
  const auto map = std::static_pointer_cast<MapObject>(objects_.find(ObjectKind::kMap, raw(id)));
  if (map == nullptr) {
    return make_error(ENOENT, "no such map");
  }
  return MapForTarget{id, map->spec, map->file_in_use(), map->region_bytes, bool{map->sealed}};
}

Result<ProgramForTarget> Session::program_for_target(ProgId id) {
  const auto program =
      std::static_pointer_cast<ProgramObject>(objects_.find(ObjectKind::kProg, raw(id)));
  if (program == nullptr) {
    return make_error(ENOENT, "no such program");
  }
  return ProgramForTarget{id, &program->compiled, program->code.get()};
}

void Session::want(const PerfEventObject& event, std::vector<WantedLink>* links) const {
  if (event.is_armed() && !shutting_down_) {
    links->push_back({event.attachment, ProgId{event.program->id}, event.device, event.inode,
                      event.file_offset, event.is_return, event.pid, event.cookie,
                      event.semaphore_offset, is_timed()});
  }
}

void Session::want(const LinkObject& link, std::vector<WantedLink>* links) const {
  if (link.uprobes == nullptr || link.uprobes->disarmed || shutting_down_) {
    return;
  }
  const UprobePlaces& all = *link.uprobes;
  for (const UprobePlaces::Place& place : all.places) {
    links->push_back({LinkId{link.id}, ProgId{link.program->id}, all.device, all.inode,
                      place.offset, all.is_return, all.pid, place.cookie, place.semaphore_offset,
                      is_timed(), all.is_session});
  }
}

std::vector<WantedLink> Session::wanted_links_of(LinkId id) {
  std::vector<WantedLink> links;
  for (const auto& event : objects_.all<PerfEventObject>()) {
    if (event->attachment == id) {
      want(*event, &links);
    }
  }
  const auto link = std::static_pointer_cast<LinkObject>(objects_.find(ObjectKind::kLink, raw(id)));
  if (link != nullptr) {
    want(*link, &links);
  }
  return links;
}

std::vector<WantedLink> Session::wanted_links() {
  std::vector<WantedLink> links;
  for (const auto& event : objects_.all<PerfEventObject>()) {
    want(*event, &links);
  }
  for (const auto& link : objects_.all<LinkObject>()) {
    want(*link, &links);
  }
  // In the order of attaching.
  std::stable_sort(links.begin(), links.end(),
                   [](const WantedLink& x, const WantedLink& y) { return raw(x.id) < raw(y.id); });
  return links;
}

void Session::target_said_printk(pid_t, const AgentMessage& message) {
  printk_.add(printk_line(message));
}

void Session::link_disarmed(LinkId id, pid_t pid, HitEnd why) {
  const auto disarm = [&](const ProgramObject& program, bool* disarmed) {
    if (!*disarmed) {
      *disarmed = true;
      log("link " + std::to_string(raw(id)) + " disarmed: its program " + program.name +
          (why == kHitFault ? " faulted" : " used up its budget") + " in process " +
          std::to_string(pid));
      sync_soon();
    }
  };
  for (const auto& event : objects_.all<PerfEventObject>()) {
    if (event->attachment == id && event->program != nullptr) {
      disarm(*event->program, &event->disarmed);
    }
  }
  const auto link = std::static_pointer_cast<LinkObject>(objects_.find(ObjectKind::kLink, raw(id)));
  if (link != nullptr && link->uprobes != nullptr) {
    disarm(*link->program, &link->uprobes->disarmed);
  }
}

void Session::target_gone(OwnerId owner, pid_t pid) {
  sweep_buffers(owner);
  for_probes_.erase(pid);
  if (::kill(pid, 0) != 0 && errno == ESRCH) {
    asked_for_.erase(pid);  // what was asked for holds through an exec
  }
  log("process " + std::to_string(pid) + " is no target any more");
  if (on_change_) {
    on_change_();
  }
}

// ---- Making targets as the objects say ----

void Session::objects_changed() {
  sync_soon();
  if (on_change_) {
    on_change_();
  }
}

void Session::sync_soon() {
  if (sync_timer_ != 0 || shutting_down_) {
    return;
  }
  // A loader that dies closes all of its fds: they are collected, so that targets stop once and not
  // once a link.
  sync_timer_ = loop_->after(0, [this] {
    objects_.collect_ended();
    sync_timer_ = 0;
    if (targets_ != nullptr && !shutting_down_) {
      auto done = targets_->sync(nullptr);
      if (!done) {
        log(std::string("targets not all changed: ") + done.error().why);
      }
      leave_unneeded_targets();
    }
  });
}

void Session::leave_unneeded_targets() {
  if (for_probes_.empty()) {
    return;
  }
  std::set<pid_t> named;
  for (const auto& event : objects_.all<PerfEventObject>()) {
    named.insert(event->pid);
  }
  for (const auto& link : objects_.all<LinkObject>()) {
    if (link->uprobes != nullptr) {
      named.insert(link->uprobes->pid);
    }
  }
  const std::set<pid_t> candidates = for_probes_;  // detaching tells target_gone()
  for (const pid_t pid : candidates) {
    if (!named.contains(pid)) {
      for_probes_.erase(pid);
      (void)targets_->detach(pid);  // it may have ended
    }
  }
  // What these processes forked came in with them.
  if (named.empty() && asked_for_.empty() && targets_->count() != 0) {
    targets_->detach_all();
  }
}

Result<void> Session::arm(const Caller& caller, const PerfEventObject& event) {
  return event.is_armed() ? arm(caller, event.attachment, event.pid,
                                event.path + "+" + std::to_string(event.file_offset))
                          : Result<void>{};
}

Result<void> Session::arm(const Caller& caller, LinkId link, pid_t pid, const std::string& place) {
  if (targets_ == nullptr) {
    return {};
  }
  if (pid > 0 && !caller.no_attach && !targets_->has(pid)) {
    auto attached = targets_->attach(pid);
    if (!attached) {
      log("cannot attach to " + std::to_string(pid) + " for a probe of process " +
          std::to_string(caller.pid) + ": " + attached.error().why + " (" +
          ::strerrorname_np(attached.error().code) + ")");
      return attached.error();
    }
    for_probes_.insert(pid);
    if (on_change_) {
      on_change_();
    }
  }
  auto placed = targets_->sync(&link);
  if (!placed) {
    log("probe at " + place + " not placed: " + placed.error().why);
  }
  return placed;
}

Result<void> Session::charge(Object* object, uint64_t* used, uint64_t limit, uint64_t bytes) {
  if (bytes > limit || *used > limit - bytes) {
    return make_error(ENOMEM, "the session's memory is used up");
  }
  *used += bytes;
  object->charge = used;
  object->charged_bytes = bytes;
  return {};
}

Result<Reply> Session::give(const Caller& caller, const std::shared_ptr<Object>& object) {
  if (objects_.references_of(caller.key) >= config_.limits.references_of_one) {
    return make_error(EMFILE, "too many objects of one loader");
  }
  if (objects_.reference_count() >= config_.limits.references) {
    return make_error(ENFILE, "too many objects");
  }
  Reply reply;
  reply.fd = TRY(objects_.give(object, caller.key));
  reply.object = object->kind;
  reply.object_id = object->id;
  if (on_change_) {
    on_change_();
  }
  return reply;
}

// ---- Requests ----

void Session::handle(const Caller& caller, Request&& request, Answer answer_to) {
  if (request.kind == MessageKind::kBpf && request.command == BPF_PROG_LOAD) {
    prog_load(caller, std::move(request), std::move(answer_to));
    return;
  }
  if (request.kind == MessageKind::kBpf && request.command == BPF_PROG_TEST_RUN) {
    prog_test_run(caller, request, answer_to);
    return;
  }
  auto result = answer(caller, request);
  if (!result) {
    Reply reply;
    reply.value = -int64_t{result.error().code};
    // People read why; programs read the errno.
    if (request.kind >= MessageKind::kAttach) {
      const char* why = result.error().why;
      const auto bytes = std::as_bytes(std::span(why, std::strlen(why)));
      reply.output.assign(bytes.begin(), bytes.end());
    }
    answer_to(std::move(reply));
    return;
  }
  answer_to(std::move(result).value());
}

Result<Reply> Session::answer(const Caller& caller, const Request& request) {
  switch (request.kind) {
    case MessageKind::kBpf:
      return bpf(caller, request);
    case MessageKind::kMapRegion:
      return map_region(request);
    case MessageKind::kMakeReadable:
      return make_readable(request);
    case MessageKind::kPerfOpen:
      return perf_open(caller, request);
    case MessageKind::kPerfIoctl:
      return perf_ioctl(caller, request);
    case MessageKind::kTracePipe: {
      Reply reply;
      reply.fd = TRY(printk_.follow(true));
      reply.object = ObjectKind::kLog;
      return reply;
    }
    case MessageKind::kAttach:
      return attach_command(request);
    case MessageKind::kDetach:
      return detach_command(request);
    case MessageKind::kStart:
      return start_command(caller, request);
    case MessageKind::kStatus:
      return status_command(request);
    case MessageKind::kList:
      return list_command(request);
    case MessageKind::kLog:
      return log_command(request);
    default:
      return make_error(EPROTO, "a request of no known kind");
  }
}

Result<pid_t> process_of(pid_t thread) {
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/%d/status", thread);
  UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC));
  char text[4096];
  const ssize_t n = file ? ::read(file.get(), text, sizeof(text) - 1) : -1;
  if (n <= 0) {
    return make_error(ESRCH, "no such process");
  }
  text[n] = 0;
  const char* line = std::strstr(text, "\nTgid:");
  if (line == nullptr) {
    return make_error(ESRCH, "no such process");
  }
  return static_cast<pid_t>(std::strtol(line + 6, nullptr, 10));
}

namespace {
Result<pid_t> live_pid(int64_t value) {
  if (value <= 0 || value > INT32_MAX) {
    return make_error(ESRCH, "no such process");
  }
  const auto pid = static_cast<pid_t>(value);
  const pid_t process = TRY(process_of(pid));
  if (::kill(process, 0) != 0) {
    return make_error(errno,
                      errno == EPERM ? "the process belongs to another user" : "no such process");
  }
  return process;
}
}  // namespace

Result<Reply> Session::attach_command(const Request& request) {
  const pid_t pid = TRY(live_pid(request.args[0]));
  TRY(targets_->attach(pid));
  asked_for_.insert(pid);
  for_probes_.erase(pid);
  if (on_change_) {
    on_change_();
  }
  return Reply{};
}

Result<Reply> Session::detach_command(const Request& request) {
  if (request.args[0] == 0) {
    Reply reply;
    reply.value = static_cast<int64_t>(targets_->count());
    targets_->detach_all();
    asked_for_.clear();
    for_probes_.clear();
    if (on_change_) {
      on_change_();
    }
    return reply;
  }
  if (request.args[0] < 0 || request.args[0] > INT32_MAX) {
    return make_error(ESRCH, "no such process");
  }
  TRY(targets_->detach(static_cast<pid_t>(request.args[0])));
  asked_for_.erase(static_cast<pid_t>(request.args[0]));
  for_probes_.erase(static_cast<pid_t>(request.args[0]));
  if (on_change_) {
    on_change_();
  }
  Reply reply;
  reply.value = 1;
  return reply;
}

Result<Reply> Session::start_command(const Caller& caller, const Request& request) {
  const pid_t pid = TRY(live_pid(request.args[0]));
  if (caller.pid != 0 && pid != caller.pid) {
    return make_error(EPERM, "a process starts only itself");
  }
  TRY(targets_->attach_at_exec(pid, (request.args[1] & kStartNoFollow) == 0));
  asked_for_.insert(pid);
  return Reply{};
}

Result<Reply> Session::log_command(const Request& request) {
  Reply reply;
  reply.fd = request.args[0] == 1 ? TRY(printk_.follow(false)) : TRY(printk_.snapshot());
  reply.object = ObjectKind::kLog;
  return reply;
}

namespace {

// Null: nobody accepted it.
const char* accepted_by(const ProgramObject& program) {
  if (!program.verified) {
    return nullptr;
  }
  switch (program.verifier) {
    case VerifierChoice::kKernel:
      return "kernel";
    case VerifierChoice::kBoth:
      return "both";
    case VerifierChoice::kOurs:
      break;
  }
  return "ours";
}

}  // namespace

SessionStatus Session::status() {
  objects_.collect_ended();
  SessionStatus status;
  for (const auto& map : objects_.all<MapObject>()) {
    status.maps.push_back(
        {map->id, map->spec, map->name, map->region_bytes, map->frozen, dropped_of(*map)});
  }
  for (const auto& program : objects_.all<ProgramObject>()) {
    SessionStatus::Program row{program->id,           program->type,
                               program->name,         program->license,
                               program->insn_count,   program->compiled.code.size(),
                               accepted_by(*program), {}};
    for (const auto& map : program->maps) {
      row.maps.push_back(map->id);
    }
    status.programs.push_back(std::move(row));
  }
  for (const auto& event : objects_.all<PerfEventObject>()) {
    status.probes.push_back({event->program != nullptr ? raw(event->attachment) : 0,
                             event->program != nullptr ? event->program->id : 0, event->path,
                             event->file_offset, event->is_return, event->pid, event->enabled,
                             event->disarmed, event->cookie});
  }
  for (const auto& link : objects_.all<LinkObject>()) {
    if (link->uprobes != nullptr) {
      const UprobePlaces& all = *link->uprobes;
      status.probes.push_back({link->id, link->program->id, all.path, all.places[0].offset,
                               all.is_return, all.pid, true, all.disarmed, all.places[0].cookie,
                               all.is_session, static_cast<uint32_t>(all.places.size())});
    }
  }
  status.targets = targets_->status();
  status.broker_pid = ::getpid();
  return status;
}

namespace {
void put_text(const std::string& text, Reply* reply) {
  const auto bytes = std::as_bytes(std::span(text));
  reply->output.assign(bytes.begin(), bytes.end());
}
}  // namespace

Result<Reply> Session::list_command(const Request& request) {
  const auto what = static_cast<Listing>(request.args[0]);
  if (request.args[0] < 1 || what > Listing::kTargets) {
    return make_error(EINVAL, "no such listing");
  }
  Reply reply;
  put_text(request.args[3] == 1 ? list_json(what, status()) : list_text(what, status()), &reply);
  return reply;
}

Result<Reply> Session::status_command(const Request& request) {
  const SessionStatus all = status();
  const std::string text = request.args[3] == 1 ? status_json(all) : status_text(all);
  Reply reply;
  reply.value =
      static_cast<int64_t>(wanted_links().size());  // armed probes: `trace` waits for them
  put_text(text, &reply);
  return reply;
}

}  // namespace bpftime
