#include "broker/object_table.hpp"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

namespace bpftime {
namespace {

// Receives and closes whatever lies in the socket.
void drain(int fd) {
  for (int rounds = 0; rounds < 4096; rounds++) {
    char byte[256];
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 253)];  // kernel: SCM_MAX_FD
    iovec iov{byte, sizeof(byte)};
    msghdr m{};
    m.msg_iov = &iov;
    m.msg_iovlen = 1;
    m.msg_control = control;
    m.msg_controllen = sizeof(control);
    const ssize_t n = ::recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0) {
      return;
    }
    for (cmsghdr* c = CMSG_FIRSTHDR(&m); c != nullptr; c = CMSG_NXTHDR(&m, c)) {
      if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
        const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
          int passed = -1;
          std::memcpy(&passed, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
          ::close(passed);
        }
      }
    }
    if (n == 0 && m.msg_controllen == 0) {
      return;
    }
  }
}

size_t index_of(ObjectKind kind) { return static_cast<size_t>(kind); }

}  // namespace

ObjectTable::~ObjectTable() {
  on_ended_ = nullptr;
  end_all();
}

void ObjectTable::name(const std::shared_ptr<Object>& object) {
  if (object->id == 0) {
    object->id = next_id_[index_of(object->kind)]++;
  }
  by_id_[index_of(object->kind)][object->id] = object;
}

Result<UniqueFd> ObjectTable::give(const std::shared_ptr<Object>& object, uint64_t giver) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) {
    return make_error(errno, "socketpair");
  }
  UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  struct stat st{};
  if (::fstat(theirs.get(), &st) != 0) {
    return make_error(errno, "fstat of a socket");
  }
  const Identity identity{st.st_dev, st.st_ino};
  const int fd = ours.get();
  TRY(loop_->add(fd, EPOLLIN | EPOLLRDHUP, [this, identity](uint32_t) {
    if (end(identity) && on_ended_ != nullptr) {
      on_ended_();
    }
  }));
  name(object);
  references_[identity] = Reference{object, std::move(ours), giver};
  given_[giver]++;
  return theirs;
}

std::shared_ptr<Object> ObjectTable::find(uint64_t device, uint64_t inode) const {
  const auto it = references_.find({device, inode});
  return it == references_.end() ? nullptr : it->second.object;
}

std::shared_ptr<Object> ObjectTable::find(ObjectKind kind, uint32_t id) const {
  const auto& ids = by_id_[index_of(kind)];
  const auto it = ids.find(id);
  return it == ids.end() ? nullptr : it->second.lock();
}

uint32_t ObjectTable::next_id(ObjectKind kind, uint32_t after) const {
  const auto& ids = by_id_[index_of(kind)];
  for (auto it = ids.upper_bound(after); it != ids.end(); ++it) {
    if (!it->second.expired()) {
      return it->first;
    }
  }
  return 0;
}

bool ObjectTable::end(const Identity& identity) {
  const auto it = references_.find(identity);
  if (it == references_.end()) {
    return false;
  }
  Reference gone = std::move(it->second);
  references_.erase(it);
  loop_->remove(gone.end.get());
  drain(gone.end.get());
  const auto count = given_.find(gone.giver);
  if (count != given_.end() && --count->second == 0) {
    given_.erase(count);
  }
  gone.object.reset();
  if (++ended_since_cleaning_ >= 256) {
    forget_expired();
  }
  return true;
}

void ObjectTable::forget_expired() {
  ended_since_cleaning_ = 0;
  for (auto& ids : by_id_) {
    std::erase_if(ids, [](const auto& entry) { return entry.second.expired(); });
  }
}

void ObjectTable::collect_ended() {
  std::vector<pollfd> polled;
  std::vector<Identity> identities;
  for (const auto& [identity, reference] : references_) {
    polled.push_back({reference.end.get(), POLLIN | POLLRDHUP, 0});
    identities.push_back(identity);
  }
  if (polled.empty() || ::poll(polled.data(), polled.size(), 0) <= 0) {
    return;
  }
  bool any = false;
  for (size_t i = 0; i < polled.size(); i++) {
    if (polled[i].revents != 0) {
      any |= end(identities[i]);
    }
  }
  if (any && on_ended_ != nullptr) {
    on_ended_();
  }
}

void ObjectTable::end_all() {
  while (!references_.empty()) {
    const Identity identity = references_.begin()->first;
    end(identity);
  }
}

size_t ObjectTable::references_of(uint64_t giver) const {
  const auto it = given_.find(giver);
  return it == given_.end() ? 0 : it->second;
}

}  // namespace bpftime
