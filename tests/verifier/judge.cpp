// Both verdicts, ours and the running kernel's, one line of JSON a program.
// Usage: verifier_judge [--log LEVEL] [--only TITLE] [--no-kernel] [--no-pointer-leaks] FILE...
// x.cases are case files, everything else BPF objects.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>

#include "kernel/kernel_verifier.hpp"
#include "object/verifier_input.hpp"
#include "tests/verifier/record.h"
#include "tests/verifier/verifier_case.hpp"

namespace bpftime::testing {
namespace {

struct Settings {
  uint32_t log_level = 0;
  std::string only;
  bool ask_kernel = true, no_pointer_leaks = false;
};

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
    }
    if (u < 0x20) {
      char code[8];
      std::snprintf(code, sizeof(code), "\\u%04x", u);
      out += code;
    } else {
      out += c;
    }
  }
  return out + '"';
}

void print(const char* name, bool is_accepted, int error, const std::string& message,
           uint64_t insns, uint64_t states, uint64_t time_us, bool was_verified = true) {
  std::printf(
      ", \"%s\": {\"verdict\": \"%s\", \"error\": %d, \"message\": %s, "
      "\"insns_processed\": %lu, \"peak_states\": %lu, \"time_us\": %lu}",
      name,
      !was_verified ? "none"
      : is_accepted ? "accept"
                    : "reject",
      error, quoted(message).c_str(), insns, states, time_us);
}

void judge(const std::string& file, const std::string& name, VerifierInput& input,
           KernelVerifier* kernel, const ObjectProgram& program, const std::string& expected,
           bool no_pointer_leaks, const Settings& settings) {
  if (!settings.only.empty() && settings.only != name) {
    return;
  }
  std::printf("{\"file\": %s, \"name\": %s, \"section\": %s, \"insns\": %zu", quoted(file).c_str(),
              quoted(name).c_str(), quoted(program.section).c_str(), program.insns.size());
  if (!expected.empty()) {
    std::printf(", \"expected\": %s", quoted(expected).c_str());
  }
  if (!program.problem.empty()) {
    std::printf(", \"problem\": %s}\n", quoted(program.problem).c_str());
    return;
  }
  VerifyOptions options;
  options.log_level = settings.log_level;
  options.no_pointer_leaks = no_pointer_leaks;
  const auto subject = input.program(program);
  if (!subject) {
    std::printf(", \"problem\": %s}\n", quoted(subject.error().why).c_str());
    return;
  }
  const auto begin = std::chrono::steady_clock::now();
  const Verdict ours = verify(*subject, options);
  const auto took = std::chrono::duration_cast<std::chrono::microseconds>(
      std::chrono::steady_clock::now() - begin);
  print("ours", ours.accepted(), ours.error, ours.message, ours.insns_processed, ours.peak_states,
        static_cast<uint64_t>(took.count()));
  KernelVerdict theirs;
  if (kernel != nullptr) {
    KernelQuestion question{.log_level = settings.log_level != 0 ? settings.log_level : 1,
                            .no_pointer_leaks = no_pointer_leaks};
    theirs = kernel->ask(*subject, question);
    if (theirs.accepted()) {
      question.log_level = 4;
      const KernelVerdict timed = kernel->ask(*subject, question);
      theirs.time_us = timed.time_us;
      theirs.message = "";
    }
    print("kernel", theirs.accepted(), theirs.error, theirs.message, theirs.insns_processed,
          theirs.peak_states, theirs.time_us, theirs.was_verified);
  }
  std::printf("}\n");
  if (settings.log_level != 0) {
    std::printf("---- ours\n%s---- kernel\n%s", ours.log.c_str(), theirs.log.c_str());
  }
}

std::string read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// What recorder.c wrote. The same program may be there many times (one for each CPU, say): once here.
BpfObject read_record(const std::string& data) {
  BpfObject object;
  std::map<int32_t, int32_t> index_of;
  for (size_t at = 0; data.size() - at >= sizeof(record);) {
    record head;
    std::memcpy(&head, data.data() + at, sizeof(head));
    at += sizeof(head);
    if (head.kind == kRecordMap) {
      if (head.fd < 0) {
        continue;
      }
      ObjectMap map;
      map.name = "map_" + std::to_string(head.fd);
      map.map_type = head.type;
      map.map_flags = head.flags;
      map.key_size = head.key_size;
      map.value_size = head.value_size;
      map.max_entries = head.max_entries;
      index_of[head.fd] = static_cast<int32_t>(object.maps.size());
      object.maps.push_back(map);
      continue;
    }
    ObjectProgram program;
    program.name.assign(head.name, ::strnlen(head.name, sizeof(head.name)));
    program.prog_type = head.type;
    program.prog_flags = head.flags;
    program.expected_attach_type = head.expected_attach_type;
    program.attach_btf_id = head.attach_btf_id;
    program.insns.resize(std::min<size_t>(head.insn_count, (data.size() - at) / sizeof(bpf_insn)));
    std::memcpy(program.insns.data(), data.data() + at, program.insns.size() * sizeof(bpf_insn));
    at += program.insns.size() * sizeof(bpf_insn);
    for (size_t i = 0; i + 1 < program.insns.size(); ++i) {
      bpf_insn& insn = program.insns[i];
      if (insn.code == (BPF_LD | BPF_IMM | BPF_DW)) {
        if (insn.src_reg != 0 && index_of.contains(insn.imm)) {
          insn.imm = index_of[insn.imm];
        }
        ++i;
      }
    }
    const bool is_known = std::any_of(
        object.programs.begin(), object.programs.end(), [&](const ObjectProgram& other) {
          return other.name == program.name && other.insns.size() == program.insns.size() &&
                 std::memcmp(other.insns.data(), program.insns.data(),
                             program.insns.size() * sizeof(bpf_insn)) == 0;
        });
    // bpftrace asks with tiny programs what the kernel can do.
    if (!is_known && program.insns.size() > 2) {
      object.programs.push_back(std::move(program));
    }
  }
  return object;
}

int judge_file(const char* path, const Btf* kernel_btf, const Settings& settings) {
  const std::string data = read_file(path);
  int faults = 0;
  const auto each = [&](const BpfObject& object, const auto& name_of, const std::string& expected,
                        bool no_pointer_leaks) {
    auto input = VerifierInput::make(object, kernel_btf);
    if (!input) {
      std::fprintf(stderr, "%s: %s\n", path, input.error().why);
      ++faults;
      return;
    }
    std::string log;
    auto kernel = settings.ask_kernel ? KernelVerifier::make(input->maps(), input->btf(), &log)
                                      : Result<KernelVerifier>(make_error(EPERM, "not asked"));
    if (!log.empty()) {
      std::fprintf(stderr, "%s: %s", path, log.c_str());
    }
    for (const ObjectProgram& program : object.programs) {
      judge(path, name_of(program), *input, kernel ? &kernel.value() : nullptr, program, expected,
            no_pointer_leaks, settings);
    }
  };
  if (std::string_view(path).ends_with(".cases")) {
    for (const Case& text : parse_cases(data)) {
      std::string message;
      const auto test = read_verifier_case(text, &message);
      if (!test) {
        std::fprintf(stderr, "%s: %s\n", path, message.c_str());
        ++faults;
        continue;
      }
      each(
          test->object, [&](const ObjectProgram&) { return test->title; },
          test->accept ? "accept" : "reject", test->no_pointer_leaks || settings.no_pointer_leaks);
    }
    return faults;
  }
  const auto own_name = [](const ObjectProgram& program) { return program.name; };
  if (std::string_view(path).ends_with(".record")) {
    each(read_record(data), own_name, "", settings.no_pointer_leaks);
    return faults;
  }
  std::string log;
  const auto object = read_object(std::as_bytes(std::span(data)), &log);
  if (!object) {
    std::fprintf(stderr, "%s: %s\n%s", path, object.error().why, log.c_str());
    return 1;
  }
  each(*object, own_name, "", settings.no_pointer_leaks);
  return faults;
}

int run(int argc, char** argv) {
  Settings settings;
  std::vector<const char*> files;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--log" && i + 1 < argc) {
      settings.log_level = static_cast<uint32_t>(std::atoi(argv[++i]));
    } else if (word == "--only" && i + 1 < argc) {
      settings.only = argv[++i];
    } else if (word == "--no-pointer-leaks") {
      settings.no_pointer_leaks = true;
    } else if (word == "--no-kernel") {
      settings.ask_kernel = false;
    } else {
      files.push_back(argv[i]);
    }
  }
  settings.ask_kernel = settings.ask_kernel && KernelVerifier::available().has_value();
  const auto kernel_btf = read_kernel_btf();
  int faults = 0;
  for (const char* file : files) {
    faults += judge_file(file, kernel_btf ? &kernel_btf.value() : nullptr, settings);
  }
  return faults == 0 ? 0 : 1;
}

}  // namespace
}  // namespace bpftime::testing

int main(int argc, char** argv) { return bpftime::testing::run(argc, argv); }
