// One function a command; each lies in the file of its name. The result is the exit status. Home:
// bpftime(1).
#pragma once
#include <string>
#include <vector>

#include "cli/broker.hpp"
#include "cli/config.hpp"
#include "cli/invocation.hpp"

namespace bpftime::cli {

// Tells the broker what this process and its children want of it. 0, or an exit status after a complaint of `command`.
int announce(Channel* broker, const Surroundings& here, const std::string& command);
// Return only when the command could not be run.
int run_load(const Surroundings& here, const std::vector<std::string>& words);
struct StartOptions {
  bool show_printk = false, no_follow = false;
};
int run_start(const Surroundings& here, const std::vector<std::string>& words,
              const StartOptions& options);

int run_attach(const Surroundings& here, const Invocation& invocation);
int run_detach(const Surroundings& here, const Invocation& invocation);
int run_trace(const Surroundings& here, const Invocation& invocation);
int run_status(const Surroundings& here, const Invocation& invocation);
int run_list(const Surroundings& here, const Invocation& invocation);
int run_map(const Surroundings& here, const Invocation& invocation);
int run_log(const Surroundings& here, const Invocation& invocation);
int run_shutdown(const Surroundings& here);
int run_verify(const Invocation& invocation);
int run_version();
int run_doctor(const Surroundings& here, const Invocation& invocation);

// The file that `word` names as a command; else says why it cannot be run and returns kExitNotFound or kExitNotRun.
int find_program(const std::string& word, std::string* file);
// True when running `file` gives rights that we do not have: whoever is traced gets none of them (execve(2)), and a
// preload is not for such a program (ld.so(8)).
bool gives_rights(const std::string& file);
// A program without an interpreter: it loads neither libraries nor a shim. Unreadable or no ELF: not known to be one.
bool is_static(const std::string& file);
// Replaces this process; prints why it could not. Returns kExitNotFound or kExitNotRun.
int run_command(const std::vector<std::string>& words);

}  // namespace bpftime::cli
