// A broker that believes everything, for tests of the shim: maps have real regions, the rest only has names.
// Home: tests. One thread serves all connections; the test reads `seen` and sets answers under the mutex.
#pragma once
#include <linux/bpf.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "ipc/channel.hpp"
#include "maps/map_ops.hpp"

namespace bpftime {

class FakeBroker {
 public:
  struct Seen {
    MessageKind kind;
    uint32_t command;
    int64_t args[4];
    std::vector<std::byte> attr;
    std::vector<ObjectRef> refs;
    std::vector<RequestPayload> payloads;
    size_t fd_count;
  };

  FakeBroker() {
    char name[] = "/tmp/bpftime-shim-test-XXXXXX";
    directory_ = ::mkdtemp(name);
    auto listener = listen_at(directory_ + "/" + kSocketName);
    listener_ = std::move(*listener);
    int fds[2];
    if (::pipe(fds) == 0) {
      stop_read_.reset(fds[0]);
      stop_write_.reset(fds[1]);
    }
    thread_ = std::thread([this] { serve(); });
  }
  ~FakeBroker() {
    stop_write_.reset();
    thread_.join();
    ::unlink((directory_ + "/" + kSocketName).c_str());
    ::rmdir(directory_.c_str());
  }
  FakeBroker(const FakeBroker&) = delete;
  FakeBroker& operator=(const FakeBroker&) = delete;

  const std::string& directory() const { return directory_; }
  std::vector<Seen> seen() {
    const std::lock_guard lock(mutex_);
    return seen_;
  }
  size_t count(MessageKind kind, uint32_t command = ~0U) {
    const std::lock_guard lock(mutex_);
    size_t n = 0;
    for (const Seen& s : seen_) {
      n += s.kind == kind && (command == ~0U || s.command == command) ? 1 : 0;
    }
    return n;
  }
  uint32_t hellos() const { return hellos_; }

 private:
  struct Map {
    MapSpec spec{};
    UniqueFd region;
    uint64_t bytes = 0;
    bool frozen = false;
    uint32_t id = 0;
  };

  void serve() {
    std::vector<UniqueFd> channels;
    for (;;) {
      std::vector<pollfd> wait{{stop_read_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
      for (const auto& c : channels) {
        wait.push_back({c.get(), POLLIN, 0});
      }
      ::poll(wait.data(), wait.size(), -1);
      if (wait[0].revents != 0) {
        return;
      }
      for (size_t i = channels.size(); i-- > 0;) {
        if (wait[i + 2].revents != 0 && !serve_one(channels[i].get())) {
          channels.erase(channels.begin() + static_cast<ptrdiff_t>(i));
        }
      }
      if (wait[1].revents != 0) {
        const int fd = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
        if (fd >= 0) {
          channels.emplace_back(fd);
        }
      }
    }
  }

  bool serve_one(int channel) {
    auto packet = receive_packet(channel, 1000);
    if (!packet) {
      return false;
    }
    auto request = parse_request(std::move(*packet));
    if (!request) {
      return false;
    }
    {
      const std::lock_guard lock(mutex_);
      seen_.push_back(Seen{request->kind,
                           request->command,
                           {request->args[0], request->args[1], request->args[2], request->args[3]},
                           request->attr,
                           request->refs,
                           request->payloads,
                           request->fds.size()});
    }
    const Reply reply = answer(*request);
    return send_reply(channel, request->serial, reply, 1000).has_value();
  }

  Reply answer(const Request& request) {
    Reply reply;
    switch (request.kind) {
      case MessageKind::kHello: {
        hellos_++;
        const Welcome welcome{100 + hellos_, 6, static_cast<uint32_t>(::getpid()), 8};
        put(&reply, welcome);
        break;
      }
      case MessageKind::kBpf:
        answer_bpf_request(request, &reply);
        break;
      case MessageKind::kPerfOpen:
        give(&reply, ObjectKind::kPerf);
        break;
      case MessageKind::kPerfIoctl:
        reply.value =
            identity(request, request.refs.empty() ? -1 : request.refs[0].fd) == 0 ? -ENOTTY : 0;
        break;
      case MessageKind::kMapRegion: {
        Map* map = request.refs.empty() ? nullptr : find(request.refs[0]);
        if (map == nullptr) {
          reply.value = -EINVAL;
          break;
        }
        MapRegionReply shape{};
        shape.map_id = map->id;
        shape.map_type = map->spec.map_type;
        shape.map_flags = map->spec.map_flags;
        shape.key_size = map->spec.key_size;
        shape.value_size = map->spec.value_size;
        shape.max_entries = map->spec.max_entries;
        shape.cpu_count = map->spec.cpu_count;
        shape.frozen = map->frozen ? 1 : 0;
        shape.region_bytes = map->bytes;
        put(&reply, shape);
        reply.fd.reset(::dup(map->region.get()));
        break;
      }
      case MessageKind::kTracePipe: {
        int fds[2];
        if (::pipe(fds) == 0) {
          reply.fd.reset(fds[0]);
          const UniqueFd writer(fds[1]);
          (void)!::write(writer.get(), "a line\n", 7);
        }
        break;
      }
      default:
        reply.value = -EINVAL;
    }
    return reply;
  }

  template <class T>
  static void put(Reply* reply, const T& value) {
    reply->output.resize(sizeof(T));
    std::memcpy(reply->output.data(), &value, sizeof(T));
  }

  uint64_t give(Reply* reply, ObjectKind kind) {
    std::erase_if(ends_, [this](const auto& end) {
      pollfd p{end.second.get(), 0, 0};
      const bool is_closed = ::poll(&p, 1, 0) > 0;  // by the loader
      if (is_closed) {
        maps_.erase(end.first);
      }
      return is_closed;
    });
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) {
      reply->value = -EMFILE;
      return 0;
    }
    struct stat st{};
    ::fstat(fds[1], &st);
    ends_.emplace_back(st.st_ino, fds[0]);
    reply->fd.reset(fds[1]);
    reply->object = kind;
    return st.st_ino;
  }

  static uint64_t identity(const Request& request, int fd) {
    const ObjectRef* ref = request.ref(fd);
    return ref == nullptr ? 0 : ref->inode;
  }
  Map* find(const ObjectRef& ref) {
    const auto found = maps_.find(ref.inode);
    return found == maps_.end() ? nullptr : &found->second;
  }

  void answer_bpf_request(const Request& request, Reply* reply) {
    bpf_attr attr{};
    std::memcpy(&attr, request.attr.data(), std::min(sizeof(attr), request.attr.size()));
    switch (request.command) {
      case BPF_MAP_CREATE: {
        Map map;
        map.spec = MapSpec{
            attr.map_type, attr.map_flags, attr.key_size, attr.value_size, attr.max_entries, 1, 0};
        const auto bytes = region_bytes(map.spec);
        if (!bytes) {
          reply->value = -bytes.error().code;
          return;
        }
        map.bytes = *bytes;
        map.region.reset(::memfd_create("bpftime-map", MFD_CLOEXEC));
        (void)!::ftruncate(map.region.get(), static_cast<off_t>(map.bytes));
        void* base =
            ::mmap(nullptr, map.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, map.region.get(), 0);
        (void)format_region(static_cast<std::byte*>(base), map.bytes, map.spec, 1);
        ::munmap(base, map.bytes);
        map.id = ++next_id_;
        maps_[give(reply, ObjectKind::kMap)] = std::move(map);
        return;
      }
      case BPF_MAP_FREEZE: {
        const ObjectRef* ref = request.ref(static_cast<int>(attr.map_fd));
        Map* map = ref == nullptr ? nullptr : find(*ref);
        reply->value = ref == nullptr ? -EBADF : map == nullptr ? -EINVAL : 0;
        if (map != nullptr) {
          map->frozen = true;
        }
        return;
      }
      case BPF_OBJ_GET_INFO_BY_FD: {
        const ObjectRef* ref = request.ref(static_cast<int>(attr.info.bpf_fd));
        Map* map = ref == nullptr ? nullptr : find(*ref);
        bpf_map_info info{};
        if (map != nullptr) {
          info.type = map->spec.map_type;
          info.id = map->id;
          info.key_size = map->spec.key_size;
          info.value_size = map->spec.value_size;
          info.max_entries = map->spec.max_entries;
        }
        struct {
          InfoOutput head{sizeof(bpf_map_info), 0};
          bpf_map_info info;
        } answer;
        answer.info = info;
        put(reply, answer);
        return;
      }
      case BPF_PROG_LOAD: {
        if (attr.log_level != 0) {
          struct {
            LogOutput head{sizeof("a log line\n"), 0};
            char text[sizeof("a log line\n")] = "a log line\n";
          } log;
          put(reply, log);
        }
        if (attr.prog_type == 999) {
          reply->value = -EACCES;
          return;
        }
        give(reply, ObjectKind::kProg);
        return;
      }
      case BPF_BTF_LOAD:
        give(reply, ObjectKind::kBtf);
        return;
      case BPF_LINK_CREATE:
        if (request.ref(static_cast<int>(attr.link_create.target_fd)) == nullptr) {
          reply->value = -EBADF;
          return;
        }
        give(reply, ObjectKind::kLink);
        return;
      case BPF_PROG_BIND_MAP:
        return;
      case BPF_MAP_GET_NEXT_ID:
        if (attr.start_id >= next_id_) {
          reply->value = -ENOENT;
          return;
        }
        put(reply, attr.start_id + 1);
        return;
      case BPF_PROG_TEST_RUN: {
        TestRunOutput out{};
        out.retval = 42;
        out.duration_ns = 7;
        put(reply, out);
        return;
      }
      default:
        reply->value = -EINVAL;
    }
  }

  std::string directory_;
  UniqueFd listener_, stop_read_, stop_write_;
  std::thread thread_;
  std::mutex mutex_;
  std::vector<Seen> seen_;
  std::atomic<uint32_t> hellos_{0};
  std::map<uint64_t, Map> maps_;
  std::vector<std::pair<uint64_t, UniqueFd>> ends_;  // of what the loader holds, by its inode
  uint32_t next_id_ = 0;
};

}  // namespace bpftime
