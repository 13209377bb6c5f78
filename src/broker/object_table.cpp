#include "broker/object_table.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>

namespace bpftime {
namespace {

size_t index_of(ObjectKind kind) { return static_cast<size_t>(kind); }

}  // namespace

ObjectTable::~ObjectTable() {
  on_ended_ = nullptr;
  end_all();
  if (watch_) {
    loop_->remove(watch_.get());
  }
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
  if (!watch_) {
    UniqueFd watch(::epoll_create1(EPOLL_CLOEXEC));
    if (!watch) {
      return make_error(errno, "epoll_create1");
    }
    TRY(loop_->add(watch.get(), EPOLLIN, [this](uint32_t) { collect_ended(); }));
    watch_ = std::move(watch);
  }
  epoll_event event{};
  event.events = EPOLLIN | EPOLLRDHUP;
  event.data.fd = ours.get();
  if (::epoll_ctl(watch_.get(), EPOLL_CTL_ADD, ours.get(), &event) != 0) {
    return make_error(errno, "epoll_ctl");
  }
  by_end_[ours.get()] = identity;
  name(object);
  references_[identity] = Reference{object, std::move(ours), giver};
  by_object_.emplace(object.get(), identity);
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
  by_end_.erase(gone.end.get());
  const auto [begin, last] = by_object_.equal_range(gone.object.get());
  for (auto one = begin; one != last; ++one) {
    if (one->second == identity) {
      by_object_.erase(one);
      break;
    }
  }
  ::epoll_ctl(watch_.get(), EPOLL_CTL_DEL, gone.end.get(), nullptr);
  const auto count = given_.find(gone.giver);
  if (count != given_.end() && --count->second == 0) {
    given_.erase(count);
  }
  gone.object->reference_ended(identity.second,
                               gone.object->pins == 0 && by_object_.count(gone.object.get()) == 0);
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

void ObjectTable::make_readable(const Object& object) {
  const auto [begin, end] = by_object_.equal_range(&object);
  for (auto one = begin; one != end; ++one) {
    const auto reference = references_.find(one->second);
    if (reference != references_.end()) {
      // A full socket is readable already.
      (void)::send(reference->second.end.get(), "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
  }
}

void ObjectTable::collect_ended() {
  bool any = false;
  epoll_event events[64];
  for (int n = 64; watch_ && n == 64;) {
    n = ::epoll_wait(watch_.get(), events, 64, 0);
    for (int i = 0; i < n; i++) {
      if (const auto it = by_end_.find(events[i].data.fd); it != by_end_.end()) {
        const Identity identity = it->second;
        any |= end(identity);
      }
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
