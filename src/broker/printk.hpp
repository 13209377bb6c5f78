// What programs print: the last lines, and whoever reads along. Home: broker, its one thread.
// A reader is the write end of a pipe. One that is slow loses lines, and is told how many before
// the next.
#pragma once
#include <cstdint>
#include <deque>
#include <map>
#include <string>

#include "abi/agent.hpp"
#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "broker/event_loop.hpp"

namespace bpftime {

// As a line of tracing/trace_pipe (kernel v6.18 kernel/trace/trace_output.c: trace_print_context).
// `message` is hostile.
std::string printk_line(const AgentMessage& message);

class PrintkLog {
 public:
  static constexpr size_t kKeptLines = 4096;
  static constexpr size_t kMaxReaders = 256;
  explicit PrintkLog(EventLoop* loop) : loop_(loop) {}
  ~PrintkLog();
  PrintkLog(const PrintkLog&) = delete;
  PrintkLog& operator=(const PrintkLog&) = delete;

  void add(std::string line);  // with its newline
  // The read end of a pipe that first gives the lines kept, then those to come. Lines that one
  // trace_pipe had, the next does not get again, as in the kernel. Errors: EMFILE.
  Result<UniqueFd> follow(bool is_trace_pipe);
  // A file with the lines kept, at its beginning.
  Result<UniqueFd> snapshot();
  [[nodiscard]] size_t reader_count() const { return readers_.size(); }

 private:
  struct Reader {
    UniqueFd end;
    bool is_trace_pipe = false;
    uint64_t lost = 0;
  };
  void say(Reader* reader, const std::string& line);

  EventLoop* loop_;
  std::deque<std::string> lines_;
  uint64_t first_ = 0;     // number of lines_[0]
  uint64_t consumed_ = 0;  // lines below this went through a trace_pipe
  std::map<int, Reader> readers_;
};

}  // namespace bpftime
