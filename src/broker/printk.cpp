#include "broker/printk.hpp"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "broker/memfd.hpp"

namespace bpftime {

std::string printk_line(const AgentMessage& message) {
  char comm[17];
  std::memcpy(comm, message.comm, 16);
  comm[16] = 0;
  const size_t bytes = std::min<size_t>(message.text_bytes, sizeof(message.text));
  std::string text(message.text, ::strnlen(message.text, bytes));
  for (std::string::size_type i = 0; i < text.size(); i++) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c == 0x1b || c == 0x7f) {
      text[i] = '?';  // no escape sequences to the terminal of whoever reads
    }
  }
  while (!text.empty() && text.back() == '\n') {
    text.pop_back();
  }
  for (char& c : comm) {
    if (c != 0 && (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)) {
      c = '?';
    }
  }
  char head[96];
  std::snprintf(head, sizeof(head), "%16s-%-7u [000] ..... %5llu.%06llu: bpf_trace_printk: ", comm,
                message.tid, static_cast<unsigned long long>(message.time_ns / 1'000'000'000),
                static_cast<unsigned long long>(message.time_ns / 1000 % 1'000'000));
  return head + text + "\n";
}

PrintkLog::~PrintkLog() {
  for (auto& [fd, reader] : readers_) {
    loop_->remove(fd);
  }
}

void PrintkLog::say(Reader* reader, const std::string& line) {
  std::string text = line;
  if (reader->lost != 0) {
    text = "bpftime: " + std::to_string(reader->lost) + " lines lost\n" + line;
  }
  // At most PIPE_BUF bytes are written whole or not at all.
  if (text.size() > 4096 || ::write(reader->end.get(), text.data(), text.size()) < 0) {
    reader->lost++;
    return;
  }
  reader->lost = 0;
}

void PrintkLog::add(std::string line) {
  for (auto& [fd, reader] : readers_) {
    say(&reader, line);
    if (reader.is_trace_pipe) {
      consumed_ = first_ + lines_.size() + 1;
    }
  }
  lines_.push_back(std::move(line));
  if (lines_.size() > kKeptLines) {
    lines_.pop_front();
    first_++;
  }
}

Result<UniqueFd> PrintkLog::follow(bool is_trace_pipe) {
  if (readers_.size() >= kMaxReaders) {
    return make_error(EMFILE, "too many readers");
  }
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    return make_error(errno, "pipe2");
  }
  UniqueFd theirs(ends[0]);
  Reader reader;
  reader.end.reset(ends[1]);
  reader.is_trace_pipe = is_trace_pipe;
  const int fd = reader.end.get();
  ::fcntl(fd, F_SETFL, O_NONBLOCK);
  ::fcntl(fd, F_SETPIPE_SZ, 1 << 20);
  TRY(loop_->add(fd, 0, [this, fd](uint32_t) {  // EPOLLERR: nobody reads any more
    loop_->remove(fd);
    readers_.erase(fd);
  }));
  const uint64_t from = is_trace_pipe ? std::max(first_, consumed_) : first_;
  for (uint64_t i = from - first_; i < lines_.size(); i++) {
    say(&reader, lines_[i]);
  }
  if (is_trace_pipe) {
    consumed_ = first_ + lines_.size();
  }
  readers_[fd] = std::move(reader);
  return theirs;
}

Result<UniqueFd> PrintkLog::snapshot() {
  std::string all;
  for (const auto& line : lines_) {
    all += line;
  }
  UniqueFd file = TRY(make_memfd("bpftime-log", 0));
  TRY(write_all(file.get(), std::as_bytes(std::span(all)), 0));
  return file;
}

}  // namespace bpftime
