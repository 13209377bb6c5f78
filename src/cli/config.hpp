// Configuration (DESIGN D13): /etc/bpftime.conf, then ~/.config/bpftime/config, then flags. Home:
// bpftime(1). A file has lines `key = value`; # begins a comment. An unknown key or a bad value is
// an error that names its line.
#pragma once
#include <string>
#include <vector>

#include "base/result.hpp"

namespace bpftime::cli {

struct Setting {
  std::string value;
  std::string from;  // "default", a file, or "flag"
};
struct Config {
  Setting session{"default", "default"};
  Setting attach{"yes", "default"};        // a probe that names a process brings the agent into it
  Setting unverified{"allow", "default"};  // whether --unverified may be asked for
  Setting idle_ms{"3000", "default"};      // how long an unused broker stays
};

// Applies the text of one file. On failure *problem says which line and what is wrong with it.
bool apply_config(const std::string& text, const std::string& from, Config* config,
                  std::string* problem);
// Reads a file that may be missing. False: *problem says why.
bool read_config(const std::string& path, Config* config, std::string* problem);
std::string print_config(const Config& config);
bool is_session_name(const std::string& name);

}  // namespace bpftime::cli
