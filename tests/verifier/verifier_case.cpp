#include "tests/verifier/verifier_case.hpp"

#include <linux/btf.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <sstream>

#include "btf/btf.hpp"
#include "btf/testing/btf_builder.hpp"
#include "isa/program.hpp"
#include "spec/context_types.hpp"
#include "spec/spec.hpp"

namespace bpftime::testing {
namespace {

const Btf* kernel_types() {
  static const auto* btf = [] {
    std::ifstream file("/sys/kernel/btf/vmlinux", std::ios::binary);
    const std::string data((std::istreambuf_iterator<char>(file)), {});
    auto parsed = Btf::parse(std::as_bytes(std::span(data)));
    return parsed ? new Btf(std::move(parsed).value()) : nullptr;
  }();
  return btf;
}

uint32_t kernel_type(const std::string& name, BtfKind kind) {
  const Btf* btf = kernel_types();
  const auto found =
      btf == nullptr ? Result<BtfType>(make_error(ENOENT, "")) : btf->find(name, kind);
  return found ? found->id : 0;
}

int32_t helper_number(const std::string& name) {
#define BPFTIME_HELPER_ROW(helper) {#helper, BPF_FUNC_##helper}
  static const std::map<std::string, int32_t> numbers = {__BPF_FUNC_MAPPER(BPFTIME_HELPER_ROW)};
#undef BPFTIME_HELPER_ROW
  const auto at = numbers.find(name);
  return at == numbers.end() ? -1 : at->second;
}

uint32_t map_type_of(const std::string& name) {
  for (uint32_t type = 1; type < 64; ++type) {
    const MapKind* kind = find_map_kind(type);
    if (kind != nullptr && name == kind->name) {
      return type;
    }
  }
  return 0;
}
uint32_t program_type_of(const std::string& name) {
  static const std::map<std::string, uint32_t> short_names = {
      {"socket", BPF_PROG_TYPE_SOCKET_FILTER},
      {"tc", BPF_PROG_TYPE_SCHED_CLS},
      {"xdp", BPF_PROG_TYPE_XDP},
      {"kprobe", BPF_PROG_TYPE_KPROBE},
      {"tracepoint", BPF_PROG_TYPE_TRACEPOINT},
      {"perf_event", BPF_PROG_TYPE_PERF_EVENT},
      {"raw_tracepoint", BPF_PROG_TYPE_RAW_TRACEPOINT},
      {"tracing", BPF_PROG_TYPE_TRACING},
      {"syscall", BPF_PROG_TYPE_SYSCALL}};
  if (const auto at = short_names.find(name); at != short_names.end()) {
    return at->second;
  }
  for (uint32_t type = 1; type < 64; ++type) {
    const char* long_name = program_type_name(type);
    if (long_name != nullptr && name == long_name) {
      return type;
    }
  }
  return 0;
}
// The structure by whose name the kernel knows a context argument.
std::string context_struct(uint32_t prog_type) {
  const ContextTypes* types = find_context_types(prog_type);
  return types == nullptr || types->program.empty() ? "none" : std::string(types->program);
}

// The types that cases may name.
class CaseTypes {
 public:
  CaseTypes() {
    u32_ = b_.add_int("unsigned int", 4);
    u64_ = b_.add_int("unsigned long long", 8);
    int_ = b_.add_int("int", 4, BTF_INT_SIGNED);
    const uint32_t words = b_.add_array(u64_, u32_, 3);
    const uint32_t two = b_.add_array(u64_, u32_, 2);
    const uint32_t lock = b_.add_struct("bpf_spin_lock", 4, {{"val", u32_, 0}});
    const uint32_t timer = b_.add_struct("bpf_timer", 16, {{"opaque", two, 0}});
    task_ = b_.add_struct("task_struct", 0, {});
    const uint32_t kptr = b_.add_pointer(b_.add_type_tag("kptr", task_));
    const uint32_t loose = b_.add_pointer(b_.add_type_tag("kptr_untrusted", task_));
    values_["plain"] = {b_.add_struct("plain", 32, {{"n", u64_, 0}, {"words", words, 8}}), 32};
    values_["lock"] = {
        b_.add_struct("lock", 32, {{"lock", lock, 0}, {"n", u32_, 4}, {"words", words, 8}}), 32};
    values_["timer"] = {
        b_.add_struct("timer", 32, {{"n", u64_, 0}, {"timer", timer, 8}, {"m", u64_, 24}}), 32};
    values_["kptr"] = {b_.add_struct("kptr", 16, {{"n", u64_, 0}, {"task", kptr, 8}}), 16};
    values_["untrusted"] = {b_.add_struct("untrusted", 16, {{"n", u64_, 0}, {"task", loose, 8}}),
                            16};
    add_objects(lock);
    pair_ = b_.add_pointer(b_.add_struct("pair", 16, {{"a", u64_, 0}, {"b", u64_, 8}}));
  }
  struct Value {
    uint32_t type, bytes;
  };
  const Value* value(const std::string& name) const {
    const auto at = values_.find(name);
    return at == values_.end() ? nullptr : &at->second;
  }
  uint32_t key() const { return u32_; }
  uint32_t argument(const std::string& name, uint32_t prog_type) {
    if (name == "ctx") {
      if (context_ == 0) {
        const uint32_t target =
            prog_type == BPF_PROG_TYPE_KPROBE
                ? b_.add_typedef("bpf_user_pt_regs_t", b_.add_struct("pt_regs", 0, {}))
                : b_.add_struct(context_struct(prog_type), 0, {});
        context_ = b_.add_pointer(target);
      }
      return context_;
    }
    if (name == "task" || name == "flavor" || name == "void" || name == "dynptr") {
      uint32_t& pointer = pointers_[name];
      if (pointer == 0) {
        pointer = b_.add_pointer(name == "void"     ? 0
                                 : name == "task"   ? task_
                                 : name == "flavor" ? b_.add_struct("task_struct___mine", 0, {})
                                                    : b_.add_struct("bpf_dynptr", 0, {}));
      }
      return pointer;
    }
    return name == "int" ? int_ : name == "u64" ? u64_ : name == "ptr" ? pair_ : 0;
  }
  uint32_t function(const std::string& name, uint32_t linkage, uint32_t returns,
                    const std::vector<uint32_t>& arguments) {
    std::vector<BtfBuilder::Member> parameters;
    static constexpr const char* kNames[] = {"a", "b", "c", "d", "e"};
    for (size_t i = 0; i < arguments.size() && i < 5; ++i) {
      parameters.push_back({kNames[i], arguments[i], 0});
    }
    return b_.add_function(name, b_.add_prototype(returns, parameters), linkage);
  }
  // `component`: the argument that it speaks of, or -1.
  void tag(const std::string& text, uint32_t type, int32_t component = -1) {
    b_.add_decl_tag(text, type, component);
  }
  std::vector<std::byte> bytes() const { return b_.bytes(); }
  uint32_t object(const std::string& name) const {
    const auto at = objects_.find(name);
    return at == objects_.end() ? 0 : at->second;
  }

 private:
  // What programs allocate, and the values that lists, trees and kptrs of that lie in.
  void add_objects(uint32_t lock) {
    const uint32_t words2 = b_.add_array(u64_, u32_, 2), words3 = b_.add_array(u64_, u32_, 3),
                   words4 = b_.add_array(u64_, u32_, 4);
    const uint32_t head = b_.add_struct("bpf_list_head", 16, {{"opaque", words2, 0}});
    const uint32_t link = b_.add_struct("bpf_list_node", 24, {{"opaque", words3, 0}});
    const uint32_t root = b_.add_struct("bpf_rb_root", 16, {{"opaque", words2, 0}});
    const uint32_t node = b_.add_struct("bpf_rb_node", 32, {{"opaque", words4, 0}});
    const uint32_t count = b_.add_struct("bpf_refcount", 4, {{"opaque", u32_, 0}});
    const auto object = [this](const std::string& name, uint32_t bytes,
                               const std::vector<BtfBuilder::Member>& members) {
      return objects_[name] = b_.add_struct("case_" + name, bytes, members);
    };
    const auto value = [this](const std::string& name, uint32_t bytes,
                              const std::vector<BtfBuilder::Member>& members) {
      const uint32_t type = b_.add_struct("case_" + name, bytes, members);
      values_[name] = {type, bytes};
      return type;
    };
    const uint32_t pod =
        object("pod", 24, {{"a", u64_, 0}, {"b", u64_, 8}, {"c", u32_, 16}, {"d", u32_, 20}});
    object("item", 40, {{"n", u64_, 0}, {"link", link, 8}, {"m", u64_, 32}});
    object("leaf", 40, {{"key", u64_, 0}, {"node", node, 8}});
    const uint32_t shared = object("shared", 72,
                                   {{"key", u64_, 0},
                                    {"node", node, 8},
                                    {"link", link, 40},
                                    {"count", count, 64},
                                    {"m", u32_, 68}});
    const uint32_t box = object(
        "box", 32, {{"n", u64_, 0}, {"lock", lock, 8}, {"m", u32_, 12}, {"items", head, 16}});
    const uint32_t kptr = b_.add_pointer(b_.add_type_tag("kptr", pod));
    const uint32_t each = b_.add_pointer(b_.add_type_tag("percpu_kptr", pod));
    const uint32_t counted = b_.add_pointer(b_.add_type_tag("kptr", shared));
    object("safe", 48, {{"n", u64_, 0}, {"pod", kptr, 8}, {"node", node, 16}});
    object("pointer", 8, {{"p", b_.add_pointer(u64_), 0}});
    object("twin", 56, {{"n", u64_, 0}, {"first", link, 8}, {"second", link, 32}});
    object("large", 600, {{"words", b_.add_array(u64_, u32_, 75), 0}});
    b_.add_decl_tag("contains:case_item:link", box, 3);
    const uint32_t list =
        value("list", 32, {{"lock", lock, 0}, {"n", u32_, 4}, {"head", head, 8}, {"m", u64_, 24}});
    b_.add_decl_tag("contains:case_item:link", list, 2);
    const uint32_t tree =
        value("tree", 32, {{"lock", lock, 0}, {"n", u32_, 4}, {"root", root, 8}, {"m", u64_, 24}});
    b_.add_decl_tag("contains:case_leaf:node", tree, 2);
    const uint32_t both = value("both", 48,
                                {{"lock", lock, 0},
                                 {"n", u32_, 4},
                                 {"head", head, 8},
                                 {"root", root, 24},
                                 {"m", u64_, 40}});
    b_.add_decl_tag("contains:case_shared:link", both, 2);
    b_.add_decl_tag("contains:case_shared:node", both, 3);
    const uint32_t twins =
        value("twins", 24, {{"lock", lock, 0}, {"n", u32_, 4}, {"head", head, 8}});
    b_.add_decl_tag("contains:case_twin:second", twins, 2);
    value("stash", 32,
          {{"n", u64_, 0}, {"pod", kptr, 8}, {"each", each, 16}, {"shared", counted, 24}});
  }

  BtfBuilder b_;
  uint32_t u32_ = 0, u64_ = 0, int_ = 0, pair_ = 0, context_ = 0, task_ = 0;
  std::map<std::string, uint32_t> pointers_;
  std::map<std::string, Value> values_;
  std::map<std::string, uint32_t> objects_;
};

class Reader {
 public:
  Reader(const Case& text, std::string* message) : text_(text), message_(message) {}

  Result<VerifierCase> read() {
    case_.title = text_.title;
    case_.object.license = "GPL";
    case_.object.programs.resize(1);
    program().name = "test";
    std::istringstream lines(section("context"));
    for (std::string line; std::getline(lines, line);) {
      TRY(context_line(line));
    }
    TRY(instructions());
    TRY(functions());
    if (uses_types_) {
      case_.object.btf = types_.bytes();
    }
    TRY(expectation());
    return std::move(case_);
  }

 private:
  Error fail(const std::string& what) {
    *message_ = text_.title + ": " + what;
    return make_error(EINVAL, "a wrong case");
  }
  std::string section(const std::string& name) const {
    const auto at = text_.sections.find(name);
    return at == text_.sections.end() ? "" : at->second;
  }
  ObjectProgram& program() { return case_.object.programs[0]; }

  Result<void> context_line(const std::string& line) {
    std::istringstream words(line);
    std::string word;
    if (!(words >> word) || word[0] == '#') {
      return {};
    }
    if (word == "type") {
      words >> word;
      program().prog_type = program_type_of(word);
      return program().prog_type != 0 ? Result<void>() : fail("no such program type: " + word);
    }
    if (word == "attach") {
      words >> program().expected_attach_type;
      return {};
    }
    if (word == "attach_btf") {
      words >> word;
      program().attach_btf_id = kernel_type(word, BtfKind::kTypedef);
      if (program().attach_btf_id == 0) {
        program().attach_btf_id = kernel_type(word, BtfKind::kFunc);
      }
      return program().attach_btf_id != 0 ? Result<void>() : fail("no such kernel type: " + word);
    }
    if (word == "strict") {
      case_.no_pointer_leaks = true;
      return {};
    }
    if (word == "flags") {
      while (words >> word) {
        program().prog_flags |= word == "strict_alignment" ? BPF_F_STRICT_ALIGNMENT
                                : word == "any_alignment"  ? BPF_F_ANY_ALIGNMENT
                                : word == "sleepable"      ? BPF_F_SLEEPABLE
                                : word == "state_freq"     ? BPF_F_TEST_STATE_FREQ
                                                           : 0;
      }
      return {};
    }
    if (word == "map") {
      return map_line(words);
    }
    if (word == "func") {
      function_lines_.push_back(line);
      return {};
    }
    if (word == "tag") {
      words >> word;
      tags_.push_back(word);
      return {};
    }
    return fail("unknown context line: " + line);
  }

  Result<void> map_line(std::istringstream& words) {
    int number = 0;
    std::string word;
    ObjectMap map;
    words >> number >> word;
    map.map_type = map_type_of(word);
    if (map.map_type == 0) {
      return fail("no such map kind: " + word);
    }
    map.name = "map_" + std::to_string(number);
    map.key_size = 4;
    map.value_size = 8;
    map.max_entries = 4;
    while (words >> word) {
      const size_t equals = word.find('=');
      const std::string name = word.substr(0, equals);
      const std::string value = equals == std::string::npos ? "" : word.substr(equals + 1);
      const auto count = [&] {
        return static_cast<uint32_t>(std::strtoul(value.c_str(), nullptr, 0));
      };
      if (name == "key") {
        map.key_size = count();
      } else if (name == "value") {
        map.value_size = count();
      } else if (name == "entries") {
        map.max_entries = count();
      } else if (name == "flags") {
        map.map_flags = count();
      } else if (name == "extra") {
        map.map_extra = count();
      } else if (name == "inner") {
        const auto inner = index_of_.find(static_cast<int>(count()));
        if (inner == index_of_.end()) {
          return fail("the inner map comes first");
        }
        map.inner = inner->second;
      } else if (name == "btf") {
        const auto* type = types_.value(value);
        if (type == nullptr) {
          return fail("no such value type: " + value);
        }
        uses_types_ = true;
        map.btf_key_type_id = types_.key();
        map.btf_value_type_id = type->type;
        map.value_size = type->bytes;
      } else if (name == "content") {
        map.content = parse_hex(value);
        map.content.resize(map.value_size);
      } else if (name == "frozen") {
        map.is_frozen = true;
      } else {
        return fail("unknown word for a map: " + word);
      }
    }
    index_of_[number] = static_cast<int32_t>(case_.object.maps.size());
    case_.object.maps.push_back(std::move(map));
    return {};
  }

  // `{task_struct.pid+2}`: an offset in a structure of the kernel's. Where there is none: as it stands.
  static std::string with_offsets(const std::string& text) {
    static const std::regex offset(R"(\{(\w+)\.([\w.]+?)([+-]\d+)?\})");
    std::string out;
    auto rest = text.cbegin();
    for (std::sregex_iterator at(text.begin(), text.end(), offset), end; at != end; ++at) {
      const Btf* btf = kernel_types();
      const auto member = btf == nullptr ? Result<BtfMember>(make_error(ENOENT, ""))
                                         : btf->find_member(kernel_type((*at)[1], BtfKind::kStruct),
                                                            (*at)[2].str());
      out.append(rest, (*at)[0].first);
      rest = (*at)[0].second;
      const long more = (*at)[3].matched ? std::strtol((*at)[3].str().c_str(), nullptr, 10) : 0;
      out += member ? std::to_string(member->bit_offset / 8 + more) : (*at)[0].str();
    }
    return out.append(rest, text.cend());
  }

  // Names to numbers, then the assembler.
  Result<void> instructions() {
    Case plain = text_;
    if (const auto text = plain.sections.find("asm"); text != plain.sections.end()) {
      static const std::regex call(R"(^(\s*call\s+)(kfunc\s+)?([a-z_][a-z0-9_]*)\s*(#.*)?$)");
      std::istringstream lines(with_offsets(text->second));
      std::string all;
      static const std::regex variable(R"(^\s*lddw %r(\d), variable (\w+)$)");
      static const std::regex type(R"(^(.*)@(\w+)(.*)$)");
      for (std::string line; std::getline(lines, line); all += line + "\n") {
        std::smatch match;
        if (std::regex_match(line, match, variable)) {
          const uint32_t id = kernel_type(match[2], BtfKind::kVar);
          if (id == 0) {
            return fail("no such variable: " + match[2].str());
          }
          char words[64];
          std::snprintf(words, sizeof(words), "raw 0x%08x00003%x18\nraw 0x0", id,
                        std::stoi(match[1].str()));
          line = words;
          continue;
        }
        if (std::regex_match(line, match, type)) {
          const uint32_t id = types_.object(match[2]);
          if (id == 0) {
            return fail("no such type: " + match[2].str());
          }
          line = match[1].str() + std::to_string(id) + match[3].str();
          continue;
        }
        if (!std::regex_match(line, match, call) || match[3] == "local") {
          continue;
        }
        const bool is_kfunc = match[2].matched;
        const int32_t number = is_kfunc
                                   ? static_cast<int32_t>(kernel_type(match[3], BtfKind::kFunc))
                                   : helper_number(match[3]);
        if (number <= 0) {
          return fail("no such function: " + match[3].str());
        }
        line = match[1].str() + match[2].str() + std::to_string(number);
      }
      text->second = all;
    }
    std::string why;
    auto insns = program_of(plain, &why);
    if (!insns) {
      return fail(why);
    }
    program().insns = std::move(insns).value();
    for (size_t i = 0; i + 1 < program().insns.size(); ++i) {
      bpf_insn& insn = program().insns[i];
      if (insn.code != (BPF_LD | BPF_IMM | BPF_DW)) {
        continue;
      }
      if (insn.src_reg == BPF_PSEUDO_MAP_FD || insn.src_reg == BPF_PSEUDO_MAP_VALUE) {
        const auto map = index_of_.find(insn.imm);
        if (map == index_of_.end()) {
          return fail("no map " + std::to_string(insn.imm));
        }
        insn.imm = map->second;
      }
      ++i;
    }
    return {};
  }

  Result<void> functions() {
    if (function_lines_.empty()) {
      return {};
    }
    uses_types_ = true;
    const auto decoded = decode_for_verifier(program().insns);
    std::vector<uint32_t> starts = decoded ? decoded->function_starts : std::vector<uint32_t>();
    static const std::regex form(
        R"(func (global|static) (int|u64|ptr|void) (\w+)\(([^)]*)\)( last (\d+))?)");
    for (size_t i = 0; i < function_lines_.size(); ++i) {
      std::smatch match;
      if (!std::regex_match(function_lines_[i], match, form)) {
        return fail("not understood: " + function_lines_[i]);
      }
      if (match[5].matched) {
        const auto count = static_cast<size_t>(std::stoul(match[6].str()));
        starts.push_back(static_cast<uint32_t>(program().insns.size() -
                                               std::min(count, program().insns.size())));
      }
      std::vector<uint32_t> arguments;
      std::vector<std::pair<std::string, int32_t>> tags;
      std::istringstream list(match[4].str());
      for (std::string name; std::getline(list, name, ',');) {
        name.erase(0, name.find_first_not_of(' '));
        std::istringstream words(name);
        std::getline(words, name, ':');
        for (std::string tag; std::getline(words, tag, ':');) {
          tags.emplace_back("arg:" + tag, static_cast<int32_t>(arguments.size()));
        }
        arguments.push_back(types_.argument(name, program().prog_type));
      }
      const uint32_t type =
          types_.function(match[3], match[1] == "global" ? BTF_FUNC_GLOBAL : BTF_FUNC_STATIC,
                          types_.argument(match[2], program().prog_type), arguments);
      program().functions.push_back({0, type});
      for (const auto& [text, argument] : tags) {
        types_.tag(text, type, argument);
      }
    }
    if (starts.size() != function_lines_.size()) {
      return fail("a `func` line for each function, or none");
    }
    for (size_t i = 0; i < starts.size(); ++i) {
      program().functions[i].insn_off = starts[i];
    }
    for (const std::string& tag : tags_) {
      types_.tag(tag, program().functions[0].type_id);
    }
    return {};
  }

  Result<void> expectation() {
    std::istringstream lines(section("expect"));
    std::string line, word;
    while (std::getline(lines, line)) {
      std::istringstream words(line);
      if (!(words >> word)) {
        continue;
      }
      std::string rest;
      std::getline(words >> std::ws, rest);
      if (word == "accept" || word == "reject") {
        case_.accept = case_.kernel_accepts = word == "accept";
        case_.reason = rest;
      } else if (word == "policy") {
        case_.policy = rest;
        case_.kernel_accepts = !case_.accept;
      } else {
        return fail("not understood: " + line);
      }
    }
    return {};
  }

  const Case& text_;
  std::string* message_;
  VerifierCase case_;
  CaseTypes types_;
  bool uses_types_ = false;
  std::map<int, int32_t> index_of_;
  std::vector<std::string> function_lines_, tags_;
};

}  // namespace

Result<VerifierCase> read_verifier_case(const Case& text, std::string* message) {
  return Reader(text, message).read();
}

}  // namespace bpftime::testing
