// What the user asked for: the value that the command line is parsed into. Home: bpftime(1).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "abi/messages.hpp"
#include "cli/processes.hpp"

namespace bpftime::cli {

enum class Command {
  kNone,
  kLoad,
  kStart,
  kAttach,
  kDetach,
  kTrace,
  kStatus,
  kLog,
  kShutdown,
  kConfig,
  kVersion,
  kDoctor,
  kList,
  kMapDump,
  kMapGet,
  kVerify,
};

// Flags that were not given leave the configuration's value (DESIGN D13).
struct Invocation {
  Command command = Command::kNone;
  std::string session;  // empty = not given
  bool no_attach = false;
  bool unverified = false;
  VerifierChoice verifier = VerifierChoice::kOurs;
  bool show_printk = false;
  bool no_follow = false;
  bool json = false;
  bool follow = false;
  int64_t pid = 0;                 // 0 = not given
  std::vector<std::string> words;  // of the command to run, verbatim
  ProcessChoice processes;         // of attach and detach
  double seconds = 0;              // of link list --for
  Listing listing = Listing::kPrograms;
  std::string map;                   // id or name
  std::vector<std::string> key;      // of map get
  std::string object_file, program;  // of verify; no program: all
  uint32_t log_level = 0;
  bool no_pointer_leaks = false;
};

// Exit statuses of bpftime itself; load, start and trace end with the command's own.
inline constexpr int kExitFailed = 1;      // one line on stderr says what, why, what to do
inline constexpr int kExitUsage = 2;       // a wrong command line
inline constexpr int kExitNotRun = 126;    // the command was found but cannot be run
inline constexpr int kExitNotFound = 127;  // no such command

// Parses; help and usage errors are printed here. True: go on. False: end with *exit_status.
bool parse(int argc, char** argv, Invocation* invocation, int* exit_status);

}  // namespace bpftime::cli
