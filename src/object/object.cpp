#include "object/object.hpp"

#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include <cerrno>
#include <cstdio>
#include <map>
#include <memory>
#include <set>

#include "object/fake_kernel.hpp"

namespace bpftime {
namespace {

thread_local std::string* said = nullptr;

__attribute__((format(printf, 2, 0))) int listen(libbpf_print_level level, const char* format,
                                                 va_list list) {
  if (level == LIBBPF_DEBUG || said == nullptr) {
    return 0;
  }
  char line[1024];
  const int n = std::vsnprintf(line, sizeof(line), format, list);
  said->append(line);
  return n;
}

// While it lives, libbpf speaks into `to`.
class Listening {
 public:
  explicit Listening(std::string* to) : before_(libbpf_set_print(listen)) { said = to; }
  ~Listening() {
    said = nullptr;
    libbpf_set_print(before_);
  }
  Listening(const Listening&) = delete;
  Listening& operator=(const Listening&) = delete;

 private:
  libbpf_print_fn_t before_;
};

struct Close {
  void operator()(bpf_object* object) const { bpf_object__close(object); }
};
using Object = std::unique_ptr<bpf_object, Close>;

Result<Object> open_object(std::span<const std::byte> elf) {
  LIBBPF_OPTS(bpf_object_open_opts, options);
  options.object_name = "object";
  bpf_object* object = bpf_object__open_mem(elf.data(), elf.size(), &options);
  if (object == nullptr) {
    return make_error(errno > 0 && errno < LIBBPF_ERRNO__LIBELF ? errno : EINVAL,
                      "libbpf cannot read the object");
  }
  return Object(object);
}

// The program that libbpf spoke of last: "prog 'NAME': ...". Empty: none.
std::string last_blamed(const std::string& log) {
  constexpr std::string_view kMark = "prog '";
  const size_t at = log.rfind(kMark);
  if (at == std::string::npos) {
    return {};
  }
  const size_t begin = at + kMark.size();
  return log.substr(begin, log.find('\'', begin) - begin);
}

// The first line in which libbpf blamed `name`, without its decoration.
std::string blame(const std::string& log, const std::string& name) {
  const size_t at = log.find("prog '" + name + "': ");
  const size_t begin = log.find("': ", at) + 3;
  return log.substr(begin, log.find('\n', begin) - begin);
}

class Taker {
 public:
  Taker(const FakeKernel& kernel, bpf_object* object) : kernel_(kernel), object_(object) {}

  BpfObject take(const std::map<std::string, std::string>& problems) {
    bpf_map* map = nullptr;
    bpf_object__for_each_map(map, object_) { map_index(bpf_map__fd(map), bpf_map__name(map)); }
    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, object_) {
      ObjectProgram one;
      one.name = bpf_program__name(program);
      one.section = bpf_program__section_name(program);
      if (const auto problem = problems.find(one.name); problem != problems.end()) {
        one.problem = problem->second;
      } else if (const auto* loaded = kernel_.program(bpf_program__fd(program))) {
        take_program(*loaded, &one);
      } else {
        one.problem = "libbpf did not make it";
      }
      result_.programs.push_back(std::move(one));
    }
    if (const btf* types = bpf_object__btf(object_); types != nullptr && result_.btf.empty()) {
      uint32_t size = 0;
      if (const void* data = btf__raw_data(types, &size); data != nullptr) {
        const auto* bytes = static_cast<const std::byte*>(data);
        result_.btf.assign(bytes, bytes + size);
      }
    }
    return std::move(result_);
  }

 private:
  int32_t map_index(int fd, const char* name) {
    const FakeKernel::Map* map = kernel_.map(fd);
    return map == nullptr ? -1 : index_of(*map, name);
  }

  int32_t index_of(const FakeKernel::Map& map, const char* name) {
    if (const auto known = index_.find(&map); known != index_.end()) {
      return known->second;
    }
    ObjectMap one;
    one.name = name != nullptr ? name : map.name;
    one.map_type = map.attr.map_type;
    one.map_flags = map.attr.map_flags;
    one.key_size = map.attr.key_size;
    one.value_size = map.attr.value_size;
    one.max_entries = map.attr.max_entries;
    one.map_extra = map.attr.map_extra;
    one.btf_key_type_id = map.attr.btf_key_type_id;
    one.btf_value_type_id = map.attr.btf_value_type_id;
    one.content = map.content;
    one.is_frozen = map.is_frozen;
    if (const auto* inner = kernel_.map_of(map.inner); map.inner != 0 && inner != nullptr) {
      one.inner = index_of(*inner, nullptr);
    }
    const auto index = static_cast<int32_t>(result_.maps.size());
    index_[&map] = index;
    result_.maps.push_back(std::move(one));
    return index;
  }

  void take_program(const FakeKernel::Program& loaded, ObjectProgram* one) {
    const bpf_attr& attr = loaded.attr;
    one->insns = loaded.insns;
    one->prog_type = attr.prog_type;
    one->expected_attach_type = attr.expected_attach_type;
    one->attach_btf_id = attr.attach_btf_id;
    one->prog_flags = attr.prog_flags;
    one->kern_version = attr.kern_version;
    one->functions = loaded.functions;
    one->lines = loaded.lines;
    result_.license = loaded.license;
    for (size_t i = 0; i + 1 < one->insns.size(); ++i) {
      bpf_insn& insn = one->insns[i];
      if (insn.code != (BPF_LD | BPF_IMM | BPF_DW)) {
        continue;
      }
      if (insn.src_reg == BPF_PSEUDO_MAP_FD || insn.src_reg == BPF_PSEUDO_MAP_VALUE) {
        insn.imm = map_index(insn.imm, nullptr);
      }
      ++i;  // the other half
    }
    if (const auto* types = kernel_.btf(static_cast<int>(attr.prog_btf_fd)); types != nullptr) {
      result_.btf = *types;  // as libbpf changed it
    }
  }

  const FakeKernel& kernel_;
  bpf_object* object_;
  std::map<const FakeKernel::Map*, int32_t> index_;
  BpfObject result_;
};

}  // namespace

Result<BpfObject> read_object(std::span<const std::byte> elf, std::string* log) {
  std::string own;
  const Listening listening(log != nullptr ? log : &own);
  std::string* heard = log != nullptr ? log : &own;
  // libbpf gives up at the first program that it cannot make: that one is left out, and all begins
  // again.
  std::map<std::string, std::string> problems;
  for (;;) {
    FakeKernel kernel;
    const Object object = TRY(open_object(elf));
    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, object.get()) {
      bpf_program__set_autoload(program, !problems.contains(bpf_program__name(program)));
    }
    const size_t before = heard->size();
    if (const int error = bpf_object__load(object.get()); error == 0) {
      return Taker(kernel, object.get()).take(problems);
    }
    const int code = errno > 0 && errno < LIBBPF_ERRNO__LIBELF ? errno : EINVAL;
    const std::string now = heard->substr(before);
    const std::string name = last_blamed(now);
    if (name.empty() || !problems.emplace(name, blame(now, name)).second) {
      return make_error(code, "libbpf cannot make the object ready");
    }
  }
}

}  // namespace bpftime
