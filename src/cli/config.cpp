#include "cli/config.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/unique_fd.hpp"

namespace bpftime::cli {
namespace {

constexpr size_t kMaxConfigBytes = 64 << 10;

std::string trim(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\r");
  if (begin == std::string::npos) {
    return "";
  }
  return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

bool is_number(const std::string& text) {
  return !text.empty() && text.size() <= 8 &&
         text.find_first_not_of("0123456789") == std::string::npos;
}

}  // namespace

bool is_session_name(const std::string& name) {
  if (name.empty() || name.size() > 32 || name[0] == '.') {
    return false;
  }
  return name.find_first_not_of(
             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") ==
         std::string::npos;
}

bool apply_config(const std::string& text, const std::string& from, Config* config,
                  std::string* problem) {
  size_t at = 0;
  for (int number = 1; at <= text.size(); number++) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line =
        trim(text.substr(at, end - at).substr(0, text.substr(at, end - at).find('#')));
    at = end + 1;
    if (line.empty()) {
      continue;
    }
    const size_t equals = line.find('=');
    const std::string key = trim(line.substr(0, equals));
    const std::string value = equals == std::string::npos ? "" : trim(line.substr(equals + 1));
    const std::string where = from + ":" + std::to_string(number) + ": ";
    if (equals == std::string::npos) {
      *problem = where + "no `key = value`";
      return false;
    }
    if (key == "session" && is_session_name(value)) {
      config->session = {value, from};
    } else if (key == "attach" && (value == "yes" || value == "no")) {
      config->attach = {value, from};
    } else if (key == "unverified" && (value == "allow" || value == "forbid")) {
      // What a file before forbade stays forbidden: /etc comes first.
      if (config->unverified.value != "forbid") {
        config->unverified = {value, from};
      }
    } else if (key == "idle_ms" && is_number(value)) {
      config->idle_ms = {value, from};
    } else {
      const bool known =
          key == "session" || key == "attach" || key == "idle_ms" || key == "unverified";
      *problem = where + (known ? "bad value for " + key + ": " + value : "unknown key " + key);
      return false;
    }
  }
  return true;
}

bool read_config(const std::string& path, Config* config, std::string* problem) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!file) {
    if (errno == ENOENT || errno == ENOTDIR || errno == EACCES) {
      return true;
    }
    *problem = path + ": " + std::strerror(errno);
    return false;
  }
  std::string text;
  char buffer[4096];
  ssize_t n = 0;
  while ((n = ::read(file.get(), buffer, sizeof(buffer))) > 0 && text.size() < kMaxConfigBytes) {
    text.append(buffer, static_cast<size_t>(n));
  }
  return apply_config(text, path, config, problem);
}

std::string print_config(const Config& config) {
  std::string out;
  const auto add = [&](const char* key, const Setting& setting) {
    out += std::string(key) + " = " + setting.value + "  # " + setting.from + "\n";
  };
  add("session", config.session);
  add("attach", config.attach);
  add("unverified", config.unverified);
  add("idle_ms", config.idle_ms);
  return out;
}

}  // namespace bpftime::cli
