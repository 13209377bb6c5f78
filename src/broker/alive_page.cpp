#include "broker/alive_page.hpp"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "broker/memfd.hpp"

namespace bpftime {
namespace {

constexpr size_t kPageBytes = 4096;

Result<robust_list_head*> robust_head() {
  robust_list_head* head = nullptr;
  size_t bytes = 0;
  if (::syscall(SYS_get_robust_list, 0, &head, &bytes) != 0) {
    return make_error(errno, "get_robust_list");
  }
  if (head == nullptr || bytes != sizeof(*head)) {
    return make_error(ENOSYS, "the thread has no robust list");
  }
  return head;
}

// The kernel finds the word at entry + futex_offset, and libc has chosen that offset (a negative
// one: the link lies behind the word in a mutex).
Result<robust_list*> entry_in(void* page, const robust_list_head* head) {
  const long distance = -head->futex_offset;
  // Before the link libc keeps a back link, which it may write when one of its own mutexes comes
  // first.
  if (distance < 16 || distance + static_cast<long>(sizeof(robust_list)) > long{kPageBytes} ||
      distance % 8 != 0) {
    return make_error(ENOTSUP, "libc's robust list has another shape");
  }
  return reinterpret_cast<robust_list*>(static_cast<char*>(page) + distance);
}

}  // namespace

Result<AliveWord> AliveWord::create() {
  AliveWord alive;
  alive.file_ = TRY(make_memfd(kAliveName, kPageBytes));
  void* page =
      ::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, alive.file_.get(), 0);
  if (page == MAP_FAILED) {
    return make_error(errno, "mmap of the alive page");
  }
  alive.page_ = page;
  TRY(seal_content(alive.file_.get()));
  robust_list_head* head = TRY(robust_head());
  robust_list* entry = TRY(entry_in(page, head));
  alive.expected_ = static_cast<uint32_t>(::syscall(SYS_gettid));
  static_cast<AlivePage*>(page)->word.store(alive.expected_);
  // Two stores, in the order in which the kernel may read them at any moment.
  __atomic_store_n(&entry->next, head->list.next, __ATOMIC_RELEASE);
  __atomic_store_n(&head->list.next, entry, __ATOMIC_RELEASE);
  return alive;
}

AliveWord::AliveWord(AliveWord&& other) noexcept
    : file_(std::move(other.file_)),
      page_(std::exchange(other.page_, nullptr)),
      expected_(other.expected_) {}

AliveWord::~AliveWord() {
  if (page_ == nullptr) {
    return;
  }
  static_cast<AlivePage*>(page_)->word.store(FUTEX_OWNER_DIED);
  auto head = robust_head();
  bool is_out = false;
  if (head) {
    auto entry = entry_in(page_, *head);
    if (entry) {
      robust_list* before = &(*head)->list;
      for (int i = 0; i < 2048 && before->next != &(*head)->list; i++) {
        if (before->next == *entry) {
          __atomic_store_n(&before->next, (*entry)->next, __ATOMIC_RELEASE);
          is_out = true;
          break;
        }
        before = before->next;
      }
    }
  }
  if (is_out) {
    ::munmap(page_, kPageBytes);
  }
}

}  // namespace bpftime
