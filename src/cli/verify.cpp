// bpftime verify: the verifier's word on an object file, without broker, kernel or privilege; with --verifier kernel or
// both the running kernel's, for who may load programs.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>

#include "cli/commands.hpp"
#include "kernel/kernel_verifier.hpp"
#include "object/verifier_input.hpp"

namespace bpftime::cli {
namespace {

struct Row {
  std::string program, section, message, log;
  const char* verdict = "error";
  uint64_t insns_processed = 0, time_us = 0, peak_states = 0;
};

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (code < 0x20 ||
               code >= 0x7f) {  // names come from a file: whatever it says stays JSON
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\u%04x", code);
      out += escape;
    } else {
      out += c;
    }
  }
  return out + '"';
}

uint64_t us_since(std::chrono::steady_clock::time_point begin) {
  const auto took = std::chrono::steady_clock::now() - begin;
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(took).count());
}

void judge_ourselves(const VerifierProgram& subject, const Invocation& invocation, Row* row) {
  VerifyOptions options;
  options.log_level = invocation.log_level;
  options.no_pointer_leaks = invocation.no_pointer_leaks;
  const auto begin = std::chrono::steady_clock::now();
  const Verdict verdict = verify(subject, options);
  row->time_us = us_since(begin);
  row->verdict = verdict.accepted() ? "accept" : "reject";
  row->message = verdict.message;
  row->log = verdict.log;
  row->insns_processed = verdict.insns_processed;
  row->peak_states = verdict.peak_states;
}

void ask_kernel(KernelVerifier* kernel, const VerifierProgram& subject,
                const Invocation& invocation, Row* row) {
  const auto begin = std::chrono::steady_clock::now();
  const KernelVerdict verdict =
      kernel->ask(subject, {.log_level = invocation.log_level != 0 ? invocation.log_level : 1,
                            .no_pointer_leaks = invocation.no_pointer_leaks});
  row->time_us = us_since(begin);
  row->verdict = verdict.accepted() ? "accept" : verdict.was_verified ? "reject" : "error";
  row->message = verdict.accepted() ? ""
                 : verdict.was_verified
                     ? "the kernel: " + verdict.message
                     : std::string("the kernel: ") + std::strerror(verdict.error);
  row->log = invocation.log_level != 0 ? verdict.log : "";
  row->insns_processed = verdict.insns_processed;
  row->peak_states = verdict.peak_states;
}

// `kernel`: null where it is not asked. Where both are, the row is the kernel's unless we refuse.
Row judge(VerifierInput* input, KernelVerifier* kernel, const ObjectProgram& program,
          const Invocation& invocation) {
  Row row;
  row.program = program.name;
  row.section = program.section;
  row.message = program.problem;
  if (!program.problem.empty()) {
    return row;
  }
  const auto subject = input->program(program);
  if (!subject) {
    row.message = subject.error().why;
    return row;
  }
  if (invocation.verifier != VerifierChoice::kKernel) {
    judge_ourselves(*subject, invocation, &row);
    if (std::strcmp(row.verdict, "accept") != 0) {
      return row;
    }
  }
  if (kernel != nullptr) {
    ask_kernel(kernel, *subject, invocation, &row);
  }
  return row;
}

void print_json(const std::vector<Row>& rows) {
  std::fputs("[", stdout);
  for (const Row& row : rows) {
    std::printf(
        "%s\n  {\"program\": %s, \"verdict\": \"%s\", \"message\": %s, \"insns_processed\": %lu, "
        "\"time_us\": %lu, \"peak_states\": %lu}",
        &row == rows.data() ? "" : ",", quoted(row.program).c_str(), row.verdict,
        quoted(row.message).c_str(), row.insns_processed, row.time_us, row.peak_states);
  }
  std::fputs("\n]\n", stdout);
}

void print_text(const std::vector<Row>& rows) {
  for (const Row& row : rows) {
    std::printf("%s (%s): ", row.program.c_str(), row.section.c_str());
    if (std::strcmp(row.verdict, "error") == 0) {
      std::printf("error: %s\n", row.message.c_str());
      continue;
    }
    std::printf("%s, %lu instructions processed, %lu us, %lu states at most%s%s\n", row.verdict,
                row.insns_processed, row.time_us, row.peak_states, row.message.empty() ? "" : ": ",
                row.message.c_str());
  }
}

// The file as an object; else it complained.
std::optional<BpfObject> object_at(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string data((std::istreambuf_iterator<char>(file)), {});
  if (!file.is_open() || data.empty()) {
    complain("verify " + path, "the file cannot be read, or is empty",
             "name an object file of clang -target bpf");
    return std::nullopt;
  }
  std::string said;
  auto object = read_object(std::as_bytes(std::span(data)), &said);
  if (!object) {
    std::fputs(said.c_str(), stderr);
    complain("verify " + path, object.error().why, "the lines above are libbpf's");
    return std::nullopt;
  }
  return std::move(object).value();
}

// The kernel with the object's maps; else it complained.
std::optional<KernelVerifier> kernel_for(const VerifierInput& input) {
  if (const auto available = KernelVerifier::available(); !available) {
    complain(
        "verify --verifier",
        std::string("may not ask the running kernel: ") + std::strerror(available.error().code),
        "do it as root on a kernel with eBPF, or leave --verifier out");
    return std::nullopt;
  }
  std::string log;
  auto kernel = KernelVerifier::make(input.maps(), input.btf(), &log);
  if (!kernel) {
    log.resize(log.size() - 1);  // its newline
    complain("verify --verifier", log, "leave --verifier out to ask ours alone");
    return std::nullopt;
  }
  return std::move(kernel).value();
}

}  // namespace

int run_verify(const Invocation& invocation) {
  const std::string& path = invocation.object_file;
  const auto object = object_at(path);
  if (!object) {
    return kExitFailed;
  }
  const auto kernel_btf = read_kernel_btf();  // a kernel without types: programs without kfuncs
  auto input = VerifierInput::make(*object, kernel_btf ? &*kernel_btf : nullptr);
  if (!input) {
    complain("verify " + path, input.error().why, "its BTF is broken; compile it again with -g");
    return kExitFailed;
  }
  std::optional<KernelVerifier> kernel;
  if (invocation.verifier != VerifierChoice::kOurs) {
    kernel = kernel_for(*input);
    if (!kernel) {
      return kExitFailed;
    }
  }
  std::vector<Row> rows;
  bool all_accepted = true;
  for (const ObjectProgram& program : object->programs) {
    if (!invocation.program.empty() && invocation.program != program.name) {
      continue;
    }
    rows.push_back(judge(&*input, kernel ? &*kernel : nullptr, program, invocation));
    all_accepted = all_accepted && std::strcmp(rows.back().verdict, "accept") == 0;
    if (!rows.back().log.empty()) {
      std::fprintf(invocation.json ? stderr : stdout, "%s:\n%s", program.name.c_str(),
                   rows.back().log.c_str());
    }
  }
  if (rows.empty()) {
    complain("verify " + path, "no such program in it", "leave --program out to see all");
    return kExitFailed;
  }
  if (invocation.json) {
    print_json(rows);
  } else {
    print_text(rows);
  }
  return all_accepted ? 0 : kExitFailed;
}

}  // namespace bpftime::cli
