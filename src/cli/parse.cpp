// The adapter of CLI11, which throws: the one file of the project built with exceptions.
#include <CLI/CLI.hpp>
#include <iostream>

#include "cli/invocation.hpp"

namespace bpftime::cli {
namespace {

constexpr char kExamples[] =
    "Examples:\n"
    "  bpftime load bpftrace -p 42 -e 'uprobe:libc:malloc { @ = count(); }'\n"
    "  bpftime load ./malloc & bpftime attach 42\n"
    "  bpftime trace ./malloc -- ls -R /\n"
    "  bpftime trace --pid 42 ./malloc\n"
    "  bpftime attach --name nginx --children\n"
    "  bpftime map dump counts --json\n"
    "Exit status: of load, start and trace the command's own, 127 when it is not found, 126 when "
    "it\n"
    "cannot be run; otherwise 0, 1 when it failed, 2 for a wrong command line.\n";

CLI::App* add(CLI::App* app, const char* name, const char* help, Invocation* to, Command command) {
  CLI::App* sub = app->add_subcommand(name, help);
  sub->add_option("--session", to->session, "name of the session (default: default)");
  sub->callback([to, command] { to->command = command; });
  return sub;
}

void add_processes(CLI::App* app, Invocation* to) {
  app->add_option("PID", to->processes.pids, "processes");
  app->add_option("--name", to->processes.names, "processes of this name (as ps -o comm)");
  app->add_option("--uid", to->processes.users, "processes of this user, by name or number");
  app->add_option("--exe", to->processes.exes, "processes of this program, by path or file name");
  app->add_flag("--children", to->processes.children, "and whatever descends from them");
}

CLI::Option* add_verifier(CLI::App* app, Invocation* to) {
  return app
      ->add_option_function<std::string>(
          "--verifier",
          [to](const std::string& word) {
            to->verifier = word == "kernel" ? VerifierChoice::kKernel
                           : word == "both" ? VerifierChoice::kBoth
                                            : VerifierChoice::kOurs;
          },
          "who judges programs: ours (default), the running kernel's (as root), or both")
      ->check(CLI::IsMember({"ours", "kernel", "both"}));
}

// OBJECT list, for each object; dump and get for maps.
void add_objects(CLI::App* app, Invocation* to) {
  const struct {
    const char* name;
    const char* help;
    Listing listing;
  } kObjects[] = {{"prog", "programs that are loaded: prog list", Listing::kPrograms},
                  {"map", "maps: map list, map dump MAP, map get MAP KEY", Listing::kMaps},
                  {"link", "what is attached where: link list", Listing::kLinks},
                  {"target", "processes that are traced: target list", Listing::kTargets}};
  for (const auto& object : kObjects) {
    CLI::App* sub = app->add_subcommand(object.name, object.help);
    sub->require_subcommand(1, 1);
    CLI::App* list = add(sub, "list", "one line each", to, Command::kList);
    list->callback([to, listing = object.listing] {
      to->command = Command::kList;
      to->listing = listing;
    });
    list->add_flag("--json", to->json, "for programs");
    if (object.listing == Listing::kLinks) {
      list->add_option("--for", to->seconds, "count and time hits for so many seconds first")
          ->check(CLI::Range(0.0, 86400.0));
    }
    if (object.listing == Listing::kMaps) {
      CLI::App* dump = add(sub, "dump", "every element", to, Command::kMapDump);
      CLI::App* get = add(sub, "get", "one element", to, Command::kMapGet);
      for (CLI::App* one : {dump, get}) {
        one->add_option("MAP", to->map, "id or name")->required();
        one->add_flag("--json", to->json, "for programs");
      }
      get->add_option("KEY", to->key, "a number, text, or each byte in hexadecimal")->required();
    }
  }
}

// `load -- COMMAND`, as with env or nice: the dashes before the command are none of its words.
std::vector<char*> without_dashes(int argc, char** argv) {
  std::vector<char*> words(argv, argv + argc);
  bool is_command = false;
  for (size_t i = 1; i < words.size(); i++) {
    const std::string word = words[i];
    if (word == "--session" || word == "--verifier") {
      i++;
    } else if (is_command && word == "--") {
      words.erase(words.begin() + static_cast<long>(i));
      break;
    } else if (word[0] != '-') {
      if (is_command || (word != "load" && word != "start")) {
        break;
      }
      is_command = true;
    }
  }
  return words;
}

bool wants_words(const Invocation& to) { return !to.words.empty() && to.words[0][0] != '-'; }

}  // namespace

bool parse(int argc, char** argv, Invocation* to, int* exit_status) {
  CLI::App app("bpftime: runs eBPF tools in user space, without root.", "bpftime");
  app.footer(kExamples);
  app.require_subcommand(1, 1);
  app.add_option("--session", to->session, "name of the session (default: default)");
  bool version = false;
  app.add_flag("--version", version, "print the version")->trigger_on_parse();

  CLI::App* load =
      add(&app, "load", "run an eBPF tool: load [--no-attach] COMMAND...", to, Command::kLoad);
  load->add_flag("--no-attach", to->no_attach,
                 "a probe that names a process does not attach to it");
  load->add_flag("--unverified", to->unverified, "programs that the verifier refuses load too")
      ->excludes(add_verifier(load, to));
  load->prefix_command();
  CLI::App* start = add(&app, "start",
                        "run a program as a target: start [--show-printk] [--no-follow] COMMAND...",
                        to, Command::kStart);
  start->add_flag("--show-printk", to->show_printk, "print what programs print to stderr");
  start->add_flag("--no-follow", to->no_follow, "neither its children nor what it execs then");
  start->prefix_command();
  CLI::App* attach = add(&app, "attach", "make running processes targets", to, Command::kAttach);
  add_processes(attach, to);
  CLI::App* detach = add(&app, "detach", "restore processes, or all of them", to, Command::kDetach);
  add_processes(detach, to);
  CLI::App* trace = add(
      &app, "trace", "run tool and target: trace TOOL... -- COMMAND..., or trace --pid PID TOOL...",
      to, Command::kTrace);
  trace->add_option("--pid", to->pid, "a running process as the target");
  trace->add_flag("--unverified", to->unverified, "programs that the verifier refuses load too")
      ->excludes(add_verifier(trace, to));
  trace->prefix_command();
  CLI::App* status = add(&app, "status", "targets, programs, maps, probes", to, Command::kStatus);
  status->add_flag("--json", to->json, "for programs");
  add_objects(&app, to);
  CLI::App* log = add(&app, "log", "what programs print with bpf_printk", to, Command::kLog);
  log->add_flag("-f,--follow", to->follow, "and what they will print");
  CLI::App* verify = add(&app, "verify", "may the programs of an object file run? No broker needed",
                         to, Command::kVerify);
  verify->add_option("FILE", to->object_file, "an object file, x.bpf.o")->required();
  verify->add_option("--program", to->program, "only this one (default: all)");
  verify->add_option("--log-level", to->log_level, "1: what led to a rejection, 2: every step");
  verify->add_flag("--no-pointer-leaks", to->no_pointer_leaks,
                   "strict: no address may become a number");
  add_verifier(verify, to);
  verify->add_flag("--json", to->json, "for programs");
  add(&app, "shutdown", "detach all and end the broker", to, Command::kShutdown);
  add(&app, "config", "the configuration in force", to, Command::kConfig);
  add(&app, "version", "the version", to, Command::kVersion);
  CLI::App* doctor =
      add(&app, "doctor", "what this machine, or a process, allows", to, Command::kDoctor);
  doctor->add_option("PID", to->pid, "a process to look at");

  // --version alone is no command: it is looked for first.
  static char wants_help[] = "--help";
  if (argc > 1 && std::string(argv[1]) == "help") {
    argv[1] = wants_help;
  }
  if (argc == 2 && std::string(argv[1]) == "--version") {
    to->command = Command::kVersion;
    return true;
  }
  try {
    const std::vector<char*> words = without_dashes(argc, argv);
    const auto is_wrong = [&](const std::string& word) {
      const auto all = app.get_subcommands([&](CLI::App* one) { return one->check_name(word); });
      return word[0] != '-' && all.empty();
    };
    if (argc > 1 && is_wrong(argv[1])) {
      throw CLI::ParseError(std::string(argv[1]) + ": no such command", kExitUsage);
    }
    app.parse(static_cast<int>(words.size()), words.data());
    if (attach->parsed() && to->processes.is_empty()) {
      throw CLI::RequiredError("PID, --name, --uid or --exe");
    }
    for (CLI::App* sub : {load, start, trace}) {
      if (sub->parsed()) {
        to->words = sub->remaining();
        if (!wants_words(*to)) {
          throw CLI::RequiredError(to->words.empty() ? "COMMAND"
                                                     : "COMMAND before " + to->words[0]);
        }
      }
    }
  } catch (const CLI::CallForHelp& help) {
    *exit_status = app.exit(help, std::cout, std::cerr);
    return false;
  } catch (const CLI::CallForAllHelp& help) {
    *exit_status = app.exit(help, std::cout, std::cerr);
    return false;
  } catch (const CLI::ParseError& error) {
    std::cerr << "bpftime: " << error.what() << "; see bpftime --help\n";
    *exit_status = kExitUsage;
    return false;
  }
  return true;
}

}  // namespace bpftime::cli
