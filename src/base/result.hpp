// Result<T>: a value or an Error. Home: pure, any process, any thread, any signal state.
// Mirrors std::expected's names so that it can be switched later. No heap, no exception.
#pragma once
#include <new>
#include <type_traits>
#include <utility>

namespace bpftime {

inline constexpr int kKernelEnotsupp = 524;  // ENOTSUPP: Linux 6.18 include/linux/errno.h, not uapi

// `code` is an errno (positive). `why` is a literal: safe in a signal handler and in the agent.
// `is_bug` marks our own mistake found inside a target, where CHECK must not abort.
struct Error {
  int code;
  const char* why;
  const char* file;
  int line;
  bool is_bug;
};
static_assert(std::is_trivially_copyable_v<Error>);

// Usage: return make_error(ENOENT, "no such map");
constexpr Error make_error(int code, const char* why, const char* file = __builtin_FILE(),
                           int line = __builtin_LINE()) {
  return Error{code, why, file, line, false};
}
constexpr Error make_bug(const char* why, const char* file = __builtin_FILE(),
                         int line = __builtin_LINE()) {
  return Error{/*EFAULT*/ 14, why, file, line, true};
}

template <class T>
class [[nodiscard]] Result {
 public:
  using value_type = T;
  Result(T value) : ok_(true) {  // NOLINT(google-explicit-constructor): as std::expected
    ::new (static_cast<void*>(&storage_.value)) T(std::move(value));
  }
  Result(Error error) : ok_(false) {  // NOLINT(google-explicit-constructor)
    ::new (static_cast<void*>(&storage_.error)) Error(error);
  }
  Result(Result&& other) noexcept : ok_(other.ok_) {
    if (ok_) {
      ::new (static_cast<void*>(&storage_.value)) T(std::move(other.storage_.value));
    } else {
      ::new (static_cast<void*>(&storage_.error)) Error(other.storage_.error);
    }
  }
  Result(const Result&) = delete;
  Result& operator=(const Result&) = delete;
  Result& operator=(Result&& other) noexcept {
    if (this != &other) {
      this->~Result();
      ::new (static_cast<void*>(this)) Result(std::move(other));
    }
    return *this;
  }
  ~Result() {
    if (ok_) {
      storage_.value.~T();
    }
  }

  [[nodiscard]] bool has_value() const { return ok_; }
  explicit operator bool() const { return ok_; }
  // Preconditions for the next four: has_value() (error(): not has_value()).
  T& value() & { return storage_.value; }
  const T& value() const& { return storage_.value; }
  T&& value() && { return std::move(storage_.value); }
  T& operator*() & { return storage_.value; }
  const T& operator*() const& { return storage_.value; }
  T* operator->() { return &storage_.value; }
  const T* operator->() const { return &storage_.value; }
  [[nodiscard]] const Error& error() const { return storage_.error; }

 private:
  union Storage {
    Storage() {}
    ~Storage() {}
    T value;
    Error error;
  } storage_;
  bool ok_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;
  Result() : error_{}, ok_(true) {}
  Result(Error error) : error_(error), ok_(false) {}  // NOLINT(google-explicit-constructor)
  [[nodiscard]] bool has_value() const { return ok_; }
  explicit operator bool() const { return ok_; }
  void value() const {}
  [[nodiscard]] const Error& error() const { return error_; }

 private:
  Error error_;
  bool ok_;
};

}  // namespace bpftime

// TRY(expr): the value, or return the error to our own caller.
#define TRY(expr)                                        \
  __extension__({                                        \
    auto try_result_ = (expr);                           \
    if (__builtin_expect(!try_result_.has_value(), 0)) { \
      return try_result_.error();                        \
    }                                                    \
    std::move(try_result_).value();                      \
  })
