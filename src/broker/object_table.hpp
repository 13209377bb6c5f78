// ObjectTable: which fd of a loader names which object, and the ids. Home: broker, its one thread.
//
// An object's fd is one end of a socketpair; the table keeps the other and watches it. HUP or any
// byte ends that reference: what arrived is received and closed first, because an end that was sent
// into its own pair would keep the pair alive without any event (DESIGN D2). A loader names an fd
// by (device, inode) of its end.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "abi/messages.hpp"
#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "broker/event_loop.hpp"
#include "broker/object.hpp"

namespace bpftime {

class ObjectTable {
 public:
  // `on_ended` runs after a reference ended and what it alone held was destroyed.
  ObjectTable(EventLoop* loop, std::function<void()> on_ended)
      : loop_(loop), on_ended_(std::move(on_ended)) {}
  ~ObjectTable();
  ObjectTable(const ObjectTable&) = delete;
  ObjectTable& operator=(const ObjectTable&) = delete;

  // Gives the object its id (once) and a new reference: the result is the end for the loader.
  // `giver` is whom the reference counts against; see references_of().
  // Errors: EMFILE, ENFILE, ENOMEM.
  Result<UniqueFd> give(const std::shared_ptr<Object>& object, uint64_t giver);
  void name(const std::shared_ptr<Object>& object);  // gives it its id without a reference
  uint32_t next_link_id() { return next_id_[static_cast<size_t>(ObjectKind::kLink)]++; }

  [[nodiscard]] std::shared_ptr<Object> find(uint64_t device, uint64_t inode) const;
  [[nodiscard]] std::shared_ptr<Object> find(ObjectKind kind, uint32_t id) const;
  // The smallest id above `after`; 0 = none.
  [[nodiscard]] uint32_t next_id(ObjectKind kind, uint32_t after) const;
  template <class T>
  [[nodiscard]] std::vector<std::shared_ptr<T>> all() const {
    std::vector<std::shared_ptr<T>> found;
    for (const auto& [id, weak] : by_id_[static_cast<size_t>(T::kKind)]) {
      if (auto object = weak.lock()) {
        found.push_back(std::static_pointer_cast<T>(object));
      }
    }
    return found;
  }

  // A byte into every socket that stands for the object: whoever waits for it there wakes up.
  void make_readable(const Object& object);

  // Ends every reference whose fd is closed by now, without waiting for the loop's next round.
  void collect_ended();
  void end_all();

  [[nodiscard]] bool is_referenced(const Object& object) const {
    return by_object_.contains(&object);
  }
  [[nodiscard]] size_t reference_count() const { return references_.size(); }
  [[nodiscard]] size_t references_of(uint64_t giver) const;

 private:
  using Identity = std::pair<uint64_t, uint64_t>;
  struct Reference {
    std::shared_ptr<Object> object;
    UniqueFd end;
    uint64_t giver;
  };
  bool end(const Identity& identity);  // true when there was one
  void forget_expired();

  EventLoop* loop_;
  std::function<void()> on_ended_;
  UniqueFd watch_;  // an epoll of all our ends, itself in the loop: one look finds those that ended
  std::map<int, Identity> by_end_;
  std::map<Identity, Reference> references_;
  std::multimap<const Object*, Identity> by_object_;
  std::map<uint64_t, size_t> given_;
  std::array<std::map<uint32_t, std::weak_ptr<Object>>, 9> by_id_;
  uint32_t ended_since_cleaning_ = 0;
  std::array<uint32_t, 9> next_id_{1, 1, 1, 1, 1, 1, 1, 1, 1};
};

}  // namespace bpftime
